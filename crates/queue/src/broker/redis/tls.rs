//! How a `rediss://` server is connected to.

use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates};
use url::Url;

use crate::address::Address;
use crate::error::Error;
use crate::tls::{Check, Terms};

/// A client of that server.
///
/// # Errors
/// [`Error::Address`] if a file cannot be read, holds no certificate, or the address says something unknown.
pub(super) fn client(info: ConnectionInfo, address: &Address) -> Result<Client, Error> {
    let refuse = |reason: String| Error::Address { address: address.shown().into(), reason };
    let url = Url::parse(address.secret()).map_err(|error| refuse(error.to_string()))?;
    let Terms { authorities, identity, check } = Terms::of_url(&url).map_err(refuse)?;
    let client_tls = identity.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    let certificates = TlsCertificates { client_tls, root_cert: authorities };
    let info = match info.addr().clone() {
        ConnectionAddr::TcpTls { host, port, tls_params, .. } if check == Check::Nothing => {
            info.set_addr(ConnectionAddr::TcpTls { host, port, insecure: true, tls_params })
        }
        _ => info,
    };
    Client::build_with_tls(info, certificates).map_err(|error| refuse(error.to_string()))
}
