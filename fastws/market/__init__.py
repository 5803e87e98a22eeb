"""The market: instruments, last prices, order books and statuses."""
