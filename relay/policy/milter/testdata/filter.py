"""A filter on libmilter that writes down what it is told and does what it is told.

filter.py SOCKET LOG [space] [quiet] [macros]

Each event is a line of JSON in LOG: the number of its session, its name, its
arguments and the macros that have a value. What to do stands in the message, in
fields such as

    X-Do: ["eom", "addheader", "X-Spam", "yes"]
    X-Do: ["body", "reply", "550", "5.7.9", "one", "two"]

or before it in words: the host of HELO and the local parts of MAIL and RCPT that
begin with "do-", as in do-reject or do-reply+550+5.7.9+no; do-todo is for the end.
space asks for SMFIP_HDR_LEADSPC, quiet for no event but the end of a message, macros
for a list of its own.
"""
import itertools
import json
import os
import signal
import sys
import threading

import Milter

SOCKET, LOG, OPTIONS = sys.argv[1], sys.argv[2], sys.argv[3:]
MACROS = """j {daemon_name} {daemon_addr} {daemon_port} v _ {client_addr} {client_name} {client_port} {client_ptr}
{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer} i {auth_type} {auth_authen} {mail_addr} {mail_host}
{mail_mailer} {rcpt_addr} {rcpt_host} {rcpt_mailer}""".split()
NUMBERS = itertools.count(1)
WORDS = {"reject": Milter.REJECT, "tempfail": Milter.TEMPFAIL, "discard": Milter.DISCARD, "accept": Milter.ACCEPT, "skip": Milter.SKIP}


class Filter(Milter.Base):
    def __init__(self):
        self.todo = []
        self.number = next(NUMBERS)

    def negotiate(self, opts):
        self._actions, offered = opts[0], opts[1]
        want = Milter.P_SKIP
        if "space" in OPTIONS:
            want |= Milter.P_HDR_LEADSPC
        if "quiet" in OPTIONS:
            want |= (Milter.P_NOCONNECT | Milter.P_NOHELO | Milter.P_NOMAIL | Milter.P_NORCPT | Milter.P_NODATA
                     | Milter.P_NOHDRS | Milter.P_NOEOH | Milter.P_NOBODY | Milter.P_NOUNKNOWN)
        if "macros" in OPTIONS:
            self._ctx.setsymlist(Milter.M_ENVRCPT, "{rcpt_addr} j")
        opts[1] = self._protocol = want & offered
        opts[2] = opts[3] = 0
        return Milter.CONTINUE

    def note(self, event, *args):
        values = {m: self.getsymval(m) for m in MACROS}
        line = json.dumps({"session": self.number, "event": event, "args": args, "macros": {m: v for m, v in values.items() if v is not None}})
        with open(LOG, "a") as f:
            f.write(line + "\n")

    def act(self, what, *args):
        if what in WORDS:
            return WORDS[what]
        if what == "todo":
            self.todo.append(["eom", *args])
            return None
        if what == "reply":
            self.setreply(args[0], args[1] or None, *args[2:])
            return Milter.REJECT if args[0][0] == "5" else Milter.TEMPFAIL
        if what == "hang":
            threading.Event().wait()
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "progress":
            self.progress()
        elif what == "replacebody":
            for part in args:
                self.replacebody(part.encode())
        else:
            getattr(self, what)(*args)
        return None

    def stage(self, name):
        answer = Milter.CONTINUE
        for what in [d for d in self.todo if d[0] == name]:
            self.todo.remove(what)
            answer = self.act(*what[1:]) or answer
        return answer

    def word(self, s):
        s = s.strip("<>").partition("@")[0]
        if s.startswith("do-"):
            return self.act(*s[3:].split("+")) or Milter.CONTINUE
        return Milter.CONTINUE

    def connect(self, host, family, addr):
        self.note("connect", host, family, addr)
        return Milter.CONTINUE

    def hello(self, name):
        self.note("helo", name)
        return self.word(name.partition(".")[0])

    def envfrom(self, *args):
        self.todo = []
        self.note("mail", *args)
        return self.word(args[0])

    def envrcpt(self, *args):
        self.note("rcpt", *args)
        return self.word(args[0])

    def data(self):
        self.note("data")
        return Milter.CONTINUE

    def header(self, name, value):
        self.note("header", name, value)
        if name == "X-Do":
            self.todo.append(json.loads(value))
        return self.stage("header")

    def eoh(self):
        self.note("eoh")
        return self.stage("eoh")

    def body(self, part):
        self.note("body", part.decode("latin1"))
        return self.stage("body")

    def eom(self):
        self.note("eom")
        return self.stage("eom")

    def abort(self):
        self.note("abort")
        return Milter.CONTINUE

    def close(self):
        self.note("close")
        return Milter.CONTINUE


Milter.factory = Filter
Milter.set_flags(Milter.CHGBODY | Milter.CHGHDRS | Milter.ADDHDRS | Milter.ADDRCPT | Milter.ADDRCPT_PAR | Milter.DELRCPT
                 | Milter.QUARANTINE | Milter.CHGFROM | Milter.SETSYMLIST)
Milter.runmilter("filter", SOCKET, 60)
