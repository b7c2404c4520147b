"""The engine of one machine: a training app's server part beside a pool of processes for its client part."""
