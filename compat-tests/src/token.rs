//! A server that hands out tokens for a registry, as the distribution project's token authentication specification asks: the
//! registry names it in `WWW-Authenticate: Bearer realm=..,service=..,scope=..`, the client asks it by `GET` with basic
//! credentials or by an OAuth 2 `POST`, and shows the registry the signed token.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::network::Network;
use crate::registry::{PASSWORD, USER};
use crate::server::{Answer, Request, Server, now, parameters};

/// What registry and token call each other.
pub const SERVICE: &str = "registry under test";
/// Who signs tokens.
pub const ISSUER: &str = "token server under test";
/// What stands for a password once a client has logged in.
const REFRESH_TOKEN: &str = "refresh-token-of-the-test";
/// Repositories below it may be pulled by everybody.
const PUBLIC: &str = "public/";

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    server: Server,
    certificate: String,
}

struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    certificate: String,
    issued: AtomicUsize,
    gives_refresh_tokens: bool,
}

impl TokenServer {
    /// One that knows [`USER`]; with refresh tokens, a client that logs in gets one instead of keeping the password.
    pub fn start(network: &Network, gives_refresh_tokens: bool) -> Result<Self> {
        let pair = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["token.test".to_owned()])?.self_signed(&pair)?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der(), &random)
            .map_err(|error| anyhow!("the token server's key: {error}"))?;
        let signer = Signer {
            key,
            random,
            certificate: STANDARD.encode(certificate.der()),
            issued: AtomicUsize::new(0),
            gives_refresh_tokens,
        };
        let handler = move |request: &Request| signer.answer(request);
        let server = Server::start(network.listen("127.0.0.1:0")?, Box::new(handler))?;
        Ok(Self { server, certificate: certificate.pem() })
    }

    /// Where clients are sent.
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.server.address())
    }

    /// Writes the certificate by which the registry checks tokens.
    pub fn write_certificate(&self, path: &Path) -> Result<()> {
        Ok(std::fs::write(path, &self.certificate)?)
    }

    /// The server, which knows what was asked.
    pub fn server(&self) -> &Server {
        &self.server
    }
}

impl Signer {
    fn answer(&self, request: &Request) -> Answer {
        let is_form = request.method == "POST";
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let asked = parameters(if is_form { &form } else { &request.query });
        let value = |name: &str| {
            asked.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str()).to_owned()
        };
        let known = STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let credentials = request.header("authorization");
        let (is_anonymous, is_known) = if is_form {
            let by_password = value("username") == USER && value("password") == PASSWORD;
            (false, by_password || value("refresh_token") == REFRESH_TOKEN)
        } else {
            (credentials.is_empty(), credentials == format!("Basic {known}"))
        };
        if !is_anonymous && !is_known {
            return crate::hostile::error(401, "UNAUTHORIZED", "wrong user or password");
        }
        let scopes = asked.iter().filter(|(name, _)| name == "scope").flat_map(|(_, value)| value.split(' '));
        let access: Vec<Value> = scopes.filter_map(|scope| granted(scope, is_known)).collect();
        match self.token(&access) {
            Some(token) => {
                let wants_refresh = value("offline_token") == "true" || value("access_type") == "offline";
                let mut body = json!({"token": token, "access_token": token, "expires_in": 300});
                if self.gives_refresh_tokens && is_known && (wants_refresh || is_form) {
                    body["refresh_token"] = json!(REFRESH_TOKEN);
                }
                Answer::new(200, body.to_string()).header("Content-Type", "application/json")
            }
            None => Answer::new(500, ""),
        }
    }

    /// A JSON web token (RFC 7519), signed by ES256, with the certificate that the registry trusts.
    fn token(&self, access: &[Value]) -> Option<String> {
        let now = now();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.certificate]});
        let claims = json!({
            "iss": ISSUER,
            "sub": USER,
            "aud": SERVICE,
            "exp": now + 300,
            "nbf": now.saturating_sub(10),
            "iat": now,
            "jti": self.issued.fetch_add(1, Ordering::Relaxed).to_string(),
            "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&self.random, signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// What of a scope, `TYPE:NAME:ACTION,..`, is granted.
fn granted(scope: &str, is_known: bool) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let is_allowed = |action: &&str| is_known || (name.starts_with(PUBLIC) && *action == "pull");
    let actions: Vec<&str> = actions.split(',').filter(is_allowed).collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_only_pull_what_is_public() {
        let actions = |scope: &str, is_known| granted(scope, is_known).unwrap()["actions"].clone();
        assert_eq!(actions("repository:a/b:pull,push", true), json!(["pull", "push"]));
        assert_eq!(actions("repository:a/b:pull,push", false), json!([]));
        assert_eq!(actions("repository:public/b:pull,push", false), json!(["pull"]));
        assert_eq!(granted("nonsense", true), None);
    }
}
