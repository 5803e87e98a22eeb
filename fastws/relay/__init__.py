"""Joins instances: what is published at one reaches the clients of all. Redis carries it and stores nothing.

    publish ─> Outgoing ─> envelopes ─> Link ─> Redis ─> Link ─> Streams ─> Market ─> local clients
               (tap of the hub,  ring)                          (gaps)     (publish_carried)

**Whose numbers are whose.** `sequence`, `seq` and `epoch` belong to the instance that serves a client, and recovery
goes by them: an update that comes from elsewhere is published here, with the next number of this hub. The relay has
numbers of its own, which no client sees:

- An *origin* is one run of one instance, a random number of 64 bits. A restart is another origin, so it is its own
  epoch.
- *Positions* count what an origin has published, per shard, from 1. They show what is missing.
- *Stamps* order the values of one channel (the prices of a code, its books, the status of a market), whoever published
  them: microseconds of the wall clock, but always over the stamp of the last value known; see `Outgoing`. A value
  with a stamp that is not over the last one is not published. So nobody sees an older value after a newer one, what
  comes twice is seen once, and all instances end with the same last values, also where two publish the same code at
  the same time. Such a late value counts as missed in mode `all`: publish a code at one instance if every update
  matters.
- The *number* of an update counts those of its origin and channel. It tells how many updates a gap has cost a code, so
  that `overflow` can say it.

**Envelopes** (`fastws._relay`) hold what one instance has published of one shard since its last flush: the first after
a quiet moment leaves at the end of that turn of the loop, and then one every `relay_interval_ms`. A body is encoded
once, at its origin, and ends before `sequence` and `seq`, which the serving instance splices in. The value travels
beside it, since alerts, portfolios, the last prices and the realtime dialect work with values.

**Shards.** A code belongs to one of `relay_shards` channels by its hash. An instance listens to the shards of what its
clients hold, its portfolios are made of and its alerts wait for, and for `LINGER_SECONDS` more. Few shards make few and
full envelopes, many leave out more for an instance that wants little; 4 are for instances that want most of it. All
instances of a cluster have the same number, and those that have not are told so and ignored. `subscribed` waits until
the shard is listened to and every peer has sent its last values, at most 500 ms: a relay that is away delays an answer
and nothing else.

**Gaps.** Each instance announces its positions every second and when it connects. Who misses something asks the origin
for it, which keeps its last envelopes (`relay_history_bytes`), and holds back what comes behind the gap for up to a
second. What the origin does not have any more, or does not send in time, is given up: the last values of the shard are
asked for, and holders in mode `all` get `overflow` with the number that is missing. Reordering and repetition change
nothing. Who is not heard for 5 s counts as gone, and goes on where it was when it comes back: a partition is a gap.

**Joining.** Whoever begins to listen to a shard asks all peers for their last values of it. They may come while live
updates do: stamps tell which is newer.

**Feeds.** Of the instances that can run a feed, one does: its owner. `posts` says which, and what the others wait for:
`feed_standby` is the place of an instance in the row, and `feed_takeover` how long an owner may be silent. Whoever has
the feed keeps it. Redis being away changes nothing; an owner that only Redis cannot reach goes on and is replaced, so
that there are two until they hear of each other. KIS refuses the second session of an app key or ends the first, and
its feed tries again only after a minute. Where the owner is not heard for 3 s, its feed is `reconnecting` to clients of
others, for nothing comes of it. Owners know what the clients of all instances look at, a second later.

**Users.** Instances tell each other how many connections each user has, within 50 ms, as a table of which only changes
are sent. So `connections_per_user` holds for all of them together, but for those that come to different instances
within about 0.1 s: of these each instance may let in as many as it sees room for. The connections of an instance that
has died count for 5 s more. Limits of addresses and in all are each instance's own. While Redis is away, every
instance counts its own users only.

**Kicks and alerts** are told to the instances that are there, who answer how many connections they close. A token that
was kicked is refused by those, and not by one that was away. Alert rules are the database's: whoever makes or deletes
one tells the others its number, and those that have the same database look it up there. Each holds prices against them,
and the database decides who fires. An alert that nobody has heard waits where it came in and where its user has a
session; it goes to the instance that the user comes to, and whoever tells it says so to all.

**Sessions** can be restored at every instance. What a connection holds, whose it is and for how long it can be
restored is told to all within `relay_interval_ms` (at least 10 ms), each session once, however often it has changed,
and at most 48 KiB in an interval; these messages are numbered, and who has missed one, or joins, is told all
sessions, part by part. They name a session by a hash: its id, which is all that one needs to take it over, never
leaves its instance and its client. What others hold takes up to `relay_sessions_bytes`; beyond, the oldest are
forgotten.

- A client that comes to another instance waits while the holder is asked for its session. The holder looks at the old
  connection as it does for its own clients (one that answers keeps the session), and then forgets it. It says how far
  the client is by *marks*: for each channel held in mode `all` the stamp of the first update that the client has
  missed, or of the last one there is. The client goes on from there with what this instance has published itself, by
  its own numbers: `recovered:true`. So nothing is sent twice between instances, and the client sees the epoch of its
  new server.
- That takes history here. Where this instance did not listen to one of the shards, has had a gap in it, or does not
  reach back, it is `recovered:false` and a snapshot. An instance listens to what somebody held for as long as
  sessions are kept. What is held in mode `latest` needs no history; its values come once more.
- A holder that lives is waited for, up to 3 s. One that is gone, or of which nothing at all was heard for 1.5 s, is
  not: the session is taken as it was announced, with `recovered:false`. What it had not told yet, of its last few
  milliseconds, is lost with it. Sessions of connections that were open last for `session_ttl` from when it was missed,
  others for what they had left.
- An instance that stops leaves its sessions to the others, once its clients have gone: it tells them of all what it
  would answer if it were asked. A client goes on with that if it has seen what was sent to it. Of a symbol that nobody
  had published until then it cannot be told how far a client is, and neither of what a slow one had not taken.
- Of two that hold a session, because they took it at once, or because the old holder was only cut off, the one has it
  to which it has moved more often, then the one with the higher origin. The other one hears that and closes its
  connection with 4410.
- Who has taken a session waits until it is as far as the holder was, up to 1.5 s: else the client would see an older
  value after a newer one. What has not come by then is declared by `recovered:false`.
- User-addressed messages that the client has missed are handed over with the session, and kept at the holder as well
  until their new instance says that it has told them: an answer that is lost is asked for again, one that comes too
  late still brings them. Those of an instance that has died are lost with it, as far as no other one has them.

**Whoever reaches Redis** can publish prices as if an instance: keep it where only the instances reach it, or let it ask
for a password. What cannot be true is refused and counted all the same: text that is no JSON, stamps a day ahead,
questions of those who have not said that they are there, more instances than there may be. An origin for which somebody
else has spoken is believed after `streams.DISAGREEMENT_SECONDS`. What is kept of others is bounded.

**When Redis is away,** local clients get what is published locally as ever. Envelopes wait in a bounded queue; what
falls out of it is a gap, which is repaired or declared. Both connections are given up when nothing comes back for
`REDIS_SILENCE_SECONDS`: an instance hears its own announcements. They are opened again after 50 to 500 ms, drawn by
chance. A message that Redis does not take, or with which it ends three connections in a row, is left out and counted.

**A process that stood still,** because it was stopped or had no turn, judges nobody by that time: what others have said
meanwhile waits in its sockets, and is read before anybody counts as silent, or anything as lost; see `AwakeClock`.

Modules: `links` what messages go over: `redis_links` with `redis_access`, `redis_listening` and `redis_sending`, or
`worker_links` with `exchange`, or `pair_links`, both of them with `exchange_links`, `exchange_ends` and
`exchange_frames`, or `detour_links`, which are those of Redis and a pair;
`outbox` what waits to be sent, `address` what the setting `relay` may say, `channels` their names,
`control` the messages beside envelopes, `sending` what leaves and `ring` what was sent, `receiving` what comes,
`streams` what is expected of an origin, `carrier` brings it to the market, `interest` which shards are wanted,
`awaiting` who waits for them, `meetings` who is there and `peers` as far as they are heard, `posts` who runs a feed and
`keeper` runs it, `session_news` tells and hears of sessions with `session_messages`, `peer_sessions` are those of
others, `session_claims` asks for them for `waiting_claims`, all of them no more often than `asking_all` says;
`late_answers` come when nobody waits any more, `session_levels` says how far this instance is and `moved_sessions`
makes them, `session_giving` gives own ones away, `session_keeping` tells of those whose holders are gone and
`session_leaving` leaves own ones, saying of them what `session_states` knows, `session_moves` is all of that,
`expiring` is what is remembered for a while only, `sharing` what is known of users and of what is looked at everywhere
and `tables` how that is kept the same, `numbering` how far what others tell is known, `naming` what instances are
called, `delays` when Redis is tried again, `lasting` the tasks that must not end, `counts` what has passed, `outages`
what the log says of Redis, `kicking` closes connections everywhere, `failures` what becomes of faults of ours,
`awake_clock` what time it is, `relay` all of it together.
"""
