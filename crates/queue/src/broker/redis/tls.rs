//! What the address of a `rediss://` server says about its certificates, in the words of Celery's addresses.
//!
//! `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` name files in PEM; `ssl_cert_reqs=none` trusts whoever answers.

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};
use url::Url;

use crate::address::Address;
use crate::error::Error;

/// A client of that server.
///
/// # Errors
/// [`Error::Address`] if a file cannot be read, holds no certificate, or the address says something unknown.
pub(super) fn client(info: ConnectionInfo, address: &Address) -> Result<Client, Error> {
    let refuse = |reason: String| Error::Address { address: address.shown().into(), reason };
    let url = Url::parse(address.secret()).map_err(|error| refuse(error.to_string()))?;
    let said =
        |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let read = |name: &str| {
        let file = said(name).map(|path| {
            std::fs::read(&path).map_err(|error| refuse(format!("could not read {name} {path}: {error}")))
        });
        file.transpose()
    };
    let is_checked = match said("ssl_cert_reqs").map(|word| word.to_ascii_lowercase()).as_deref() {
        None | Some("required" | "cert_required" | "optional" | "cert_optional") => true,
        Some("none" | "cert_none") => false,
        Some(other) => {
            return Err(refuse(format!("found ssl_cert_reqs={other}, expected required or none")));
        }
    };
    let client_tls = match (read("ssl_certfile")?, read("ssl_keyfile")?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(refuse("expected ssl_certfile and ssl_keyfile, or neither".into())),
    };
    let certificates = TlsCertificates { client_tls, root_cert: read("ssl_ca_certs")? };
    let info = match (info.addr().clone(), is_checked) {
        (ConnectionAddr::TcpTls { host, port, tls_params, .. }, false) => {
            info.set_addr(ConnectionAddr::TcpTls { host, port, insecure: true, tls_params })
        }
        _ => info,
    };
    Client::build_with_tls(info, certificates).map_err(|error| refuse(error.to_string()))
}
