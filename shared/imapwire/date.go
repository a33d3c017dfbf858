package imapwire

import "time"

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

// Date takes a date, "1-Feb-1994" with or without quotes, as midnight UTC.
func (p *Parser) Date() time.Time {
	quoted := p.Has('"')
	day := p.fixed(2, false)
	t := p.monthYear(day)
	if quoted {
		p.Expect('"')
	}
	return t
}

// DateTime takes a date-time, `"17-Jul-1996 02:44:25 -0700"`.
func (p *Parser) DateTime() time.Time {
	p.Expect('"')
	var day int
	if p.Has(' ') {
		day = p.fixed(1, true)
	} else {
		day = p.fixed(2, false) // one digit alone is wrong, but sent
	}
	date := p.monthYear(day)
	p.SP()
	hour := p.fixed(2, true)
	p.Expect(':')
	minute := p.fixed(2, true)
	p.Expect(':')
	second := p.fixed(2, true)
	p.SP()
	sign := 1
	if p.Has('-') {
		sign = -1
	} else {
		p.Expect('+')
	}
	zoneHour, zoneMinute := p.fixed(2, true), p.fixed(2, true)
	p.Expect('"')
	if hour > 23 || minute > 59 || second > 60 || zoneMinute > 59 {
		p.Fail("no such time")
	}
	if !p.ok() {
		return time.Time{}
	}
	offset := sign * (zoneHour*3600 + zoneMinute*60)
	return date.Add(time.Duration(hour*3600+minute*60+second-offset) * time.Second)
}

// fixed takes at most n digits, exactly n when exact.
func (p *Parser) fixed(n int, exact bool) int {
	v, i := 0, 0
	for i < n && isDigit(p.Peek()) {
		v = v*10 + int(p.Peek()-'0')
		p.i++
		i++
	}
	if i == 0 || (exact && i < n) {
		p.Fail("digit expected in a date")
		return 0
	}
	return v
}

func (p *Parser) monthYear(day int) time.Time {
	p.Expect('-')
	month := 0
	if p.ok() && len(p.b)-p.i >= 3 {
		for m := range 12 {
			name := months[3*m : 3*m+3]
			if b := p.b[p.i:]; upper(b[0]) == name[0] && b[1]|0x20 == name[1] && b[2]|0x20 == name[2] {
				month = m + 1
			}
		}
	}
	if month == 0 {
		p.Fail("month expected")
		return time.Time{}
	}
	p.i += 3
	p.Expect('-')
	year := p.fixed(4, true)
	if !p.ok() {
		return time.Time{}
	}
	t := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if t.Day() != day || day == 0 {
		p.Fail("no such day")
		return time.Time{}
	}
	return t
}

// AppendDateTime writes the Unix time in nanoseconds as a date-time in UTC,
// quotes included.
func AppendDateTime(dst []byte, unixNano int64) []byte {
	t := time.Unix(0, unixNano).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	if year < 0 || year > 9999 {
		year = 0
	}
	dst = append(dst, '"')
	if day < 10 {
		dst = append(dst, ' ', byte('0'+day))
	} else {
		dst = appendTwo(dst, day)
	}
	dst = append(dst, '-')
	dst = append(dst, months[3*month-3:3*month]...)
	dst = append(dst, '-')
	dst = appendTwo(dst, year/100)
	dst = appendTwo(dst, year%100)
	dst = append(dst, ' ')
	dst = appendTwo(dst, hour)
	dst = append(dst, ':')
	dst = appendTwo(dst, minute)
	dst = append(dst, ':')
	dst = appendTwo(dst, second)
	return append(dst, ` +0000"`...)
}

func appendTwo(dst []byte, v int) []byte {
	return append(dst, byte('0'+v/10), byte('0'+v%10))
}
