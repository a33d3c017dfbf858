package message

import (
	"errors"
	"strings"
	"time"
)

// ErrDate says that a date cannot be read.
var ErrDate = errors.New("not a date")

// ParseDate reads a Date field (RFC 5322 3.3), its obsolete forms (4.3) and
// some common errors: comments anywhere, no weekday, years of two or three
// digits, no seconds, points between hours and minutes, zones by name or none,
// the month before the day, the year at the end. A zone that is not known
// counts as UTC. The error is ErrDate.
func ParseDate(s string) (time.Time, error) {
	d := dateReader{scanner: scanner{s: s}}
	if !d.read() {
		return time.Time{}, ErrDate
	}
	t := time.Date(d.year, d.month, d.day, d.hour, d.minute, d.second, 0, zone(d.offset))
	if t.Day() != d.day {
		return time.Time{}, ErrDate // as in 31 Feb
	}
	return t, nil
}

// zone is the location offset seconds east of Greenwich.
func zone(offset int) *time.Location {
	if offset == 0 {
		return time.UTC
	}
	return time.FixedZone("", offset)
}

type dateReader struct {
	scanner
	year, day, hour, minute, second, offset int
	month                                   time.Month
}

// next reads a word of a date.
func (d *dateReader) next() string {
	for d.cfws() == more && (d.at(',') || d.at(';')) {
		d.i++
	}
	start := d.i
	for d.i < len(d.s) && strings.IndexByte(" \t\r\n(,;", d.s[d.i]) < 0 {
		d.i++
	}
	return d.s[start:d.i]
}

func (d *dateReader) read() bool {
	w := d.next()
	if isWeekday(w) {
		w = d.next()
	}
	if strings.Count(w, "-") == 2 { // 01-Jan-2024
		parts := strings.Split(w, "-")
		return d.setDate(parts[0], parts[1], parts[2]) && d.setTime(d.next()) && d.setZone(d.next())
	}
	first, second, third := w, d.next(), d.next()
	if _, ok := month(first); ok { // Jan 1 10:00:00 2024
		first, second = second, first
		if strings.IndexByte(third, ':') > 0 {
			year := d.next()
			if !isNumber(year) { // Jan 1 10:00:00 CET 2024
				year = d.next()
			}
			return d.setDate(first, second, year) && d.setTime(third)
		}
	}
	return d.setDate(first, second, third) && d.setTime(d.next()) && d.setZone(d.next())
}

func isWeekday(w string) bool {
	if len(w) < 3 {
		return false
	}
	const days = "monTUEwedTHUfriSATsun"
	for i := 0; i < len(days); i += 3 {
		if equalFold(w[:3], days[i:i+3]) {
			return true
		}
	}
	return false
}

func month(w string) (time.Month, bool) {
	if len(w) < 3 {
		return 0, false
	}
	const months = "janfebmaraprmayjunjulaugsepoctnovdec"
	for i := 0; i < len(months); i += 3 {
		if equalFold(w[:3], months[i:i+3]) {
			return time.Month(i/3 + 1), true
		}
	}
	return 0, false
}

func isNumber(w string) bool {
	_, ok := number(w, 9)
	return ok
}

// number reads at most most digits.
func number(w string, most int) (n int, ok bool) {
	if w == "" || len(w) > most {
		return 0, false
	}
	for i := range len(w) {
		if w[i] < '0' || w[i] > '9' {
			return 0, false
		}
		n = n*10 + int(w[i]-'0')
	}
	return n, true
}

func (d *dateReader) setDate(day, monthName, year string) bool {
	var ok bool
	if d.day, ok = number(day, 2); !ok || d.day < 1 || d.day > 31 {
		return false
	}
	if d.month, ok = month(monthName); !ok {
		return false
	}
	if d.year, ok = number(year, 4); !ok {
		return false
	}
	switch { // RFC 5322 4.3
	case len(year) == 2 && d.year < 50:
		d.year += 2000
	case len(year) <= 3:
		d.year += 1900
	}
	return true
}

// setTime reads hh:mm or hh:mm:ss.
func (d *dateReader) setTime(w string) bool {
	sep := ":"
	if strings.IndexByte(w, ':') < 0 {
		sep = "."
	}
	parts := strings.SplitN(w, sep, 4)
	if len(parts) < 2 || len(parts) > 3 {
		return false
	}
	limits := [...]int{24, 60, 61}
	fields := [...]*int{&d.hour, &d.minute, &d.second}
	for i, part := range parts {
		n, ok := number(part, 2)
		if !ok || n >= limits[i] {
			return false
		}
		*fields[i] = n
	}
	d.second = min(d.second, 59) // a leap second
	return true
}

// namedZones are the zones of RFC 5322 4.3, in hours.
var namedZones = [...]struct {
	name  string
	hours int
}{
	{"EST", -5},
	{"EDT", -4},
	{"CST", -6},
	{"CDT", -5},
	{"MST", -7},
	{"MDT", -6},
	{"PST", -8},
	{"PDT", -7},
}

func (d *dateReader) setZone(w string) bool {
	if len(w) >= 5 && (w[0] == '+' || w[0] == '-') {
		n, ok := number(w[1:5], 4)
		if !ok {
			return true
		}
		d.offset = min(n/100, 23)*3600 + min(n%100, 59)*60
		if w[0] == '-' {
			d.offset = -d.offset
		}
		return true
	}
	for _, z := range namedZones {
		if equalFold(w, z.name) {
			d.offset = z.hours * 3600
		}
	}
	return true
}
