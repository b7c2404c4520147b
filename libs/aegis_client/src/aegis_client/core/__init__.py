"""How calls are described, sent and answered; shared by the sync and the async client."""
