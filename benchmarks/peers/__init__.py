"""Servers to compare with: each a small program in its own idiom that publishes what the load client measures.

All do the same and nothing more. A program takes two arguments, the messages a second and the text that every
message begins with; binds a free port of 127.0.0.1; prints one line of JSON, ``{"port": 8123, "pids": [42]}``, with
the processes whose processor time and memory are the server's; accepts WebSockets at /v1/ws, answers the first
message of each with `subscribed` (Nchan cannot: there the upgrade subscribes), and publishes from its start on until
it is terminated.

Rules that keep the comparison fair:

1. A message ends with its own `timestamp`, `sequence` and `seq`; all before is ready-made and the same for every
   server, as long as a price of the simulator of fastws. The stamp is read from the clock when the message is made,
   which is when the server's publishing call is made.
2. Open loop on an absolute schedule: a message is due at its time, however slow the server is. What is due is
   published at once, but not more than 32 messages between two looks at the sockets, so that a server that falls
   behind still accepts and reads. A server that is behind publishes late: that shows as a share of the rate.
3. One process and one thread that publishes, no TLS, no compression, no keep-alive pings. Else the defaults of the
   library, but for limits that would drop messages or connections.

    python -m benchmarks.peers --list
    python -m benchmarks.peers A C --json bench_results/peers.json
"""
