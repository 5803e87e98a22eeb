"""What of the documentation is made from the source: it says what the program does, and not what was once written."""
