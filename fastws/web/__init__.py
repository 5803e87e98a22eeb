"""What people look at: the dashboard, the test page, and the files that browsers load, all served by the server itself.

`pages/` has the HTML. Its addresses all begin with ``../``, and scripts tell from their own address where the server is
(`static/common/paths.js`), so that pages work behind a proxy that puts a prefix before every path. Below `static/` is
what is served at ``/static/``; the client library there is a link to `clients/js`.
"""
