"""A filter on libmilter: filter.py NAME SOCKET LOG.

It does what a field X-Say-NAME of the message says: add, reject, tempfail, discard
or hold. Each recipient it hears of is a line in LOG.
"""
import sys

import Milter

NAME, SOCKET, LOG = sys.argv[1:]


class Filter(Milter.Base):
    def envrcpt(self, to, *args):
        with open(LOG, "a") as f:
            f.write(to.strip("<>") + "\n")
        return Milter.CONTINUE

    def envfrom(self, *args):
        self.word = ""
        return Milter.CONTINUE

    def header(self, name, value):
        if name == "X-Say-" + NAME:
            self.word = value.strip()
        return Milter.CONTINUE

    def eom(self):
        if self.word == "add":
            self.addheader("X-By", NAME)
        elif self.word == "hold":
            self.quarantine("looks odd to " + NAME)
        elif self.word == "discard":
            return Milter.DISCARD
        elif self.word == "reject":
            self.setreply("550", "5.7.9", "Refused by " + NAME)
            return Milter.REJECT
        elif self.word == "tempfail":
            return Milter.TEMPFAIL
        return Milter.CONTINUE


Milter.factory = Filter
Milter.set_flags(Milter.ADDHDRS | Milter.QUARANTINE)
Milter.runmilter(NAME, SOCKET, 60)
