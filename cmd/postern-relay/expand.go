package main

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/postern-mail/postern/relay/bounce"
	"github.com/postern-mail/postern/relay/expand"
	"github.com/postern-mail/postern/relay/mapping"
	"github.com/postern-mail/postern/shared/config"
)

// expandConfig is how an address is turned into deliveries.
func (r *relay) expandConfig(in *inside) (cfg expand.Config, err error) {
	c := &in.c.Expand
	texts, err := refusals(c.Texts)
	if err != nil {
		return cfg, err
	}
	tables, err := mappings(c.Mappings)
	if err != nil {
		return cfg, err
	}
	srs, err := readSRS(c.SRSDomain, c.SRSKeyFile)
	if err != nil {
		return cfg, err
	}
	return expand.Config{
		Directory: in.dir.cache, Pair: r.n.Routes.Pair, Hostnames: slices.Concat([]string{in.c.Hostname}, c.Hostnames),
		Options: c.Options, ListLimit: c.ListLimit, ChunkSize: c.Piece, Trim: c.Trim, Texts: texts, Mappings: tables,
		Quota: c.Quota, MessageQuota: c.MessageQuota, OverQuotaTemporary: c.OverQuotaTemporary, RouteToRoutingHost: c.RouteToRoutingHost, SRS: srs, Guaranteed: c.GuaranteedChannels, Log: r.n.Log,
		Groups: c.GroupRights, Separator: in.dir.schema.Separator,
	}, nil
}

// refusals are the texts of expand.texts by their names.
func refusals(list []string) (map[string]string, error) {
	texts := map[string]string{}
	for _, t := range list {
		name, text, ok := strings.Cut(t, "=")
		if !ok {
			return nil, fmt.Errorf("expand.texts: %q is not name=text", t)
		}
		texts[strings.TrimSpace(name)] = strings.TrimSpace(text)
	}
	return texts, nil
}

// mappings are the tables of a file; nil without one.
func mappings(file string) (*mapping.Tables, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("expand.mappings: %w", err)
	}
	tables, err := mapping.Parse(file, text)
	if err != nil {
		return nil, fmt.Errorf("expand.mappings: %w", err)
	}
	return tables, nil
}

// noticeTexts are the texts of notifications, with those of a directory.
func noticeTexts(c *config.Notices) (*bounce.Texts, error) {
	var files fs.FS
	if c.Texts != "" {
		files = os.DirFS(c.Texts)
	}
	texts, err := bounce.LoadTexts(files)
	if err != nil {
		return nil, fmt.Errorf("notices.texts: %w", err)
	}
	if !texts.Has(c.Language) {
		return nil, fmt.Errorf("notices.language: no texts in %q; there are %s", c.Language, strings.Join(texts.Languages(), ", "))
	}
	return texts, nil
}

// readSRS reads the keys of rewritten senders; nil without a domain.
func readSRS(domain, file string) (*expand.SRS, error) {
	if domain == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("expand.srs_key_file: %w", err)
	}
	s := &expand.SRS{Domain: domain}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			s.Keys = append(s.Keys, []byte(line))
		}
	}
	return s, nil
}
