package directory

import (
	"slices"
	"strings"
	"testing"
)

func TestLanguages(t *testing.T) {
	for preferred, want := range map[string]string{
		"":                              "",
		"de":                            "de",
		" pt_BR ":                       "pt-br",
		"fr, en-gb;q=0.8, en;q=0.7":     "fr en-gb en",
		"en;q=0.1, ja;q=0.9,*;q=0.5":    "ja en",
		"de, de;q=0.5, x y, 1, en;q=ab": "de",
		"it;q=0, es; q=0.5, a-":         "es",
		"nl;q=NaN,fi;q=2,sv;level=1":    "sv",
		"toolonglanguage, zh-Hant-TW":   "zh-hant-tw",
		strings.Repeat("aa,bb,", 10000): "aa bb",
	} {
		if got := strings.Join(Languages(preferred), " "); got != want {
			t.Errorf("%.40q: %q, want %q", preferred, got, want)
		}
	}
}

func TestIn(t *testing.T) {
	texts := []Tagged{{"", "plain"}, {"de-at", "Grüß Gott"}, {"de", "Hallo"}, {"fr", "Salut"}}
	for preferred, want := range map[string]string{
		"": "plain", "it": "plain", "DE": "Hallo", "de-AT": "Grüß Gott", "de-CH": "Grüß Gott", "fr-CA": "Salut",
		"it, fr;q=0.5": "Salut", "fr;q=0.1, de": "Hallo",
	} {
		if got := In(texts, preferred); got != want {
			t.Errorf("%q: %q, want %q", preferred, got, want)
		}
	}
	if got := In(texts[3:], "it"); got != "Salut" {
		t.Errorf("only another language: %q", got)
	}
	if got := In(nil, "it"); got != "" {
		t.Errorf("no texts: %q", got)
	}
}

func FuzzLanguages(f *testing.F) {
	for _, s := range []string{"de", "fr, en-gb;q=0.8, en;q=0.7", "*;q=0", ";,;q=1e999", "a_b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, preferred string) {
		tags := Languages(preferred)
		if len(tags) > maxLanguageTags {
			t.Fatalf("%d tags", len(tags))
		}
		if again := Languages(strings.Join(tags, ",")); !slices.Equal(again, tags) {
			t.Fatalf("%q: %q, and again %q", preferred, tags, again)
		}
	})
}
