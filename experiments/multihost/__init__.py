"""Several processes that train one head."""
