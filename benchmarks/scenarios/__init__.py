"""The load scenarios, one a module, and what they share."""
