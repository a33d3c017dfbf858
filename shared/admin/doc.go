/*
Package admin is the API between the operator's tool and the daemons: JSON over
HTTP, on a unix socket in the node's directory and on a TCP port that asks for a
certificate of role admin.

api.go lists every method with its path, its two types and whether it changes
anything; a daemon answers those it has handlers for. Nothing else is served:
an unknown path is 404, and a caller who is not admin is refused before the body
is read. The socket is for the owner of the process only, by its file mode.

The path begins with the version of the API. Within a version fields are only
added; a reader ignores those it does not know. A request is one JSON object of
at most 1 MB; an answer is one JSON object, or {"error": TEXT} with a status of
400 (bad request), 403, 404 (no such thing), 409 (not possible now), 501 (this
node has no such method) or 500.
*/
package admin
