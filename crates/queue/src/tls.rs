//! Whom we trust on the other side of TLS, and who we say that we are.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::verify_server_cert_signed_by_trust_anchor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use url::Url;

/// What an address says about certificates. All of them are in PEM.
#[derive(Default)]
pub(crate) struct Terms {
    /// Who may have signed the server's certificate; if it says nothing, whom this machine trusts.
    pub(crate) authorities: Option<Vec<u8>>,
    /// Our own certificate, and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) check: Check,
}

/// What of a server's certificate must be right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Check {
    /// Who signed it, and whom it names.
    #[default]
    Name,
    /// Who signed it.
    Authority,
    /// Nothing: whoever answers is believed.
    Nothing,
}

impl Terms {
    /// In the words of Celery's addresses: `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` name files;
    /// `ssl_cert_reqs=none` believes whoever answers.
    ///
    /// # Errors
    /// If a file cannot be read, or the address says something unknown.
    pub(crate) fn of_url(url: &Url) -> Result<Self, String> {
        let said = |name: &str| said(url, name);
        let check = match said("ssl_cert_reqs").map(|word| word.to_ascii_lowercase()).as_deref() {
            None | Some("required" | "cert_required" | "optional" | "cert_optional") => Check::Name,
            Some("none" | "cert_none") => Check::Nothing,
            Some(other) => return Err(format!("found ssl_cert_reqs={other}, expected required or none")),
        };
        let identity = match (read(url, "ssl_certfile")?, read(url, "ssl_keyfile")?) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("expected ssl_certfile and ssl_keyfile, or neither".into()),
        };
        Ok(Self { authorities: read(url, "ssl_ca_certs")?, identity, check })
    }

    /// How to connect on these terms.
    ///
    /// # Errors
    /// If there is no certificate in what should hold one.
    pub(crate) fn config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = match self.check {
            Check::Name => config.with_root_certificates(self.roots()?),
            Check::Authority => config
                .dangerous()
                .with_custom_certificate_verifier(Lenient::new(provider, Some(self.roots()?))),
            Check::Nothing => {
                config.dangerous().with_custom_certificate_verifier(Lenient::new(provider, None))
            }
        };
        let Some((certificate, key)) = &self.identity else { return Ok(config.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| format!("could not read the key of our certificate: {error}"))?;
        config.with_client_auth_cert(certificates(certificate)?, key).map_err(|error| error.to_string())
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        match &self.authorities {
            Some(pem) => {
                for certificate in certificates(pem)? {
                    roots.add(certificate).map_err(|error| error.to_string())?;
                }
            }
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        Ok(roots)
    }
}

/// What an address says under that name.
pub(crate) fn said(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The file that an address names.
pub(crate) fn read(url: &Url, name: &str) -> Result<Option<Vec<u8>>, String> {
    let read = |path| std::fs::read(&path).map_err(|error| format!("could not read {name} {path}: {error}"));
    said(url, name).map(read).transpose()
}

/// Whether one of the two sides does not trust the other's certificate.
pub(crate) fn is_distrust(error: &std::io::Error) -> bool {
    let said = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(said, Some(Error::InvalidCertificate(_) | Error::AlertReceived(_)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("could not read a certificate: {error}"))?;
    if found.is_empty() {
        return Err("could not read a certificate: found none, expected one in PEM".into());
    }
    Ok(found)
}

/// Believes a server whoever it says it is, if only its certificate is signed by one of these; or at all.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    authorities: Option<RootCertStore>,
}

impl Lenient {
    fn new(provider: Arc<CryptoProvider>, authorities: Option<RootCertStore>) -> Arc<Self> {
        Arc::new(Self { provider, authorities })
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.authorities {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
