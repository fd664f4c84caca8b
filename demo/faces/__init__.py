"""The Faces workload, written anew with the HTTP contract of Faces 1.x, where color speaks HTTP like smiley.

`python3 -m demo.faces face|smiley|color|gui [--port 8000]`; configured by Faces' environment variables. Beyond the contract:
`PUT /ready` with {"ready": false} makes `GET /ready` answer 503 until it is set back, so that a probe can be made to fail; and
face's `/ready` speaks for face alone, without asking smiley and color.
"""
