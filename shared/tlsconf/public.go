package tlsconf

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync/atomic"
	"time"
)

// Public holds the certificate that a relay shows to the Internet.
type Public struct {
	files   Files
	current atomic.Pointer[tls.Certificate]
	stamp   atomic.Pointer[string]
}

// LoadPublic reads certificate and key.
func LoadPublic(certFile, keyFile string) (*Public, error) {
	p := &Public{files: Files{CertFile: certFile, KeyFile: keyFile}}
	if err := p.Reload(); err != nil {
		return nil, err
	}
	return p, nil
}

// Reload reads the files again. On an error the old certificate stays in use.
func (p *Public) Reload() error {
	stamp := fileStamp(p.files.CertFile, p.files.KeyFile)
	cert, err := loadPair(p.files.CertFile, p.files.KeyFile)
	if err != nil {
		return err
	}
	p.current.Store(&cert)
	p.stamp.Store(&stamp)
	return nil
}

// Watch is Store.Watch for the public certificate.
func (p *Public) Watch(ctx context.Context, interval time.Duration, log *slog.Logger) {
	watch(ctx, interval, log, &p.stamp, []string{p.files.CertFile, p.files.KeyFile}, p.Reload)
}

// Server returns the configuration of a public listener: TLS 1.2 and later
// with forward secrecy and AEAD (RFC 9325). clientCAs may be nil; otherwise a
// client may show a certificate of one of them, for SASL EXTERNAL.
func (p *Public) Server(clientCAs *x509.CertPool) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of 1.3 cannot be chosen
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil },
	}
	if clientCAs != nil {
		c.ClientAuth = tls.VerifyClientCertIfGiven
		c.ClientCAs = clientCAs
	}
	return c
}
