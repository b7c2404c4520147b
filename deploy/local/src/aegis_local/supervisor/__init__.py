"""Starts programs in order, waits until each answers, restarts what crashes, leaves nothing behind."""
