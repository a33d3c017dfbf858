package directory

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// maxLanguageTags bounds what is read of one preferredLanguage.
const maxLanguageTags = 16

// Languages are the tags of a preferredLanguage, the most wanted first and in
// lower case: one tag, or several with weights as in Accept-Language (RFC 2798
// 2.7, RFC 9110 12.5.4), "fr, en-GB;q=0.8". What is no tag, has no weight or
// stands twice is left out, and so is "*".
func Languages(preferred string) []string {
	type wish struct {
		tag    string
		weight float64
	}
	var wishes []wish
	for part := range strings.SplitSeq(preferred, ",") {
		text, options, _ := strings.Cut(part, ";")
		tag := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(text), "_", "-"))
		weight := 1.0
		if q, ok := strings.CutPrefix(strings.TrimSpace(options), "q="); ok {
			var err error
			if weight, err = strconv.ParseFloat(q, 64); err != nil || !(weight <= 1) {
				weight = 0
			}
		}
		if !languageTag(tag) || !(weight > 0) || slices.ContainsFunc(wishes, func(w wish) bool { return w.tag == tag }) {
			continue
		}
		if wishes = append(wishes, wish{tag, weight}); len(wishes) == maxLanguageTags {
			break
		}
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.weight, a.weight) })
	var tags []string
	for _, w := range wishes {
		tags = append(tags, w.tag)
	}
	return tags
}

// languageTag reports whether tag, in lower case, is made as RFC 5646 says:
// letters, then subtags of letters and digits, of 1 to 8 each.
func languageTag(tag string) bool {
	for i, sub := range strings.Split(tag, "-") {
		if len(sub) == 0 || len(sub) > 8 {
			return false
		}
		for _, c := range []byte(sub) {
			if (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}

// In is the text whose tag fits a preferredLanguage best: of the language
// wanted most, the same tag or one of the same primary language, then of the
// next; the one without a tag, any. "" without texts.
func In(texts []Tagged, preferred string) string {
	for _, wanted := range Languages(preferred) {
		primary, _, _ := strings.Cut(wanted, "-")
		near := -1
		for i, t := range texts {
			tag, _, _ := strings.Cut(t.Language, "-")
			if t.Language == wanted {
				return t.Text
			}
			if near < 0 && tag == primary {
				near = i
			}
		}
		if near >= 0 {
			return texts[near].Text
		}
	}
	for _, t := range texts {
		if t.Language == "" {
			return t.Text
		}
	}
	if len(texts) > 0 {
		return texts[0].Text
	}
	return ""
}
