"""``fastws top``: a running server in the terminal.

`asking` asks it, `history` makes rates of its answers, `figures` puts them in words; `plain` prints them once, and
`live` shows them on a screen that `screen` draws and `terminal` gives.
"""
