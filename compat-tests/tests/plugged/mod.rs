//! A plugin with what a test makes by it, for the suites of plugins.

use anyhow::{Context, Result};
use compat_tests::Case;
use compat_tests::host::Host;
use compat_tests::plugin::Plugin;
use serde_json::Value;

/// A plugin, and what a test made with it, which goes before the plugin does.
pub(crate) struct Bed<'a> {
    case: &'a Case<'a>,
    pub(crate) plugin: Plugin,
}

impl<'a> Bed<'a> {
    pub(crate) fn make(case: &'a Case<'a>, subnet: u8) -> Result<Self> {
        Ok(Self { case, plugin: Plugin::start(case.host(), &format!("{}-p", case.prefix()), subnet)? })
    }

    /// A network with its links.
    pub(crate) fn network(&self, what: &str, options: &[&str]) -> Result<String> {
        self.made(what, &[&["-d", self.plugin.name()], options].concat())
    }

    pub(crate) fn made(&self, what: &str, options: &[&str]) -> Result<String> {
        let name = self.case.network(what);
        self.case.docker(&[&["network", "create"], options, &[&name]].concat()).ok()?;
        Ok(name)
    }

    #[allow(dead_code, reason = "not every suite looks at them")]
    pub(crate) fn request(&self, method: &str) -> Result<Value> {
        let found = self.plugin.calls().into_iter().find(|call| call.method == method);
        Ok(found.with_context(|| format!("{method} was not called"))?.request)
    }

    #[allow(dead_code, reason = "not every suite looks at them")]
    pub(crate) fn create(&self, name: &str, body: Value) -> Result<(u16, String)> {
        let mut body = body;
        body["Name"] = name.into();
        let answer = self.case.http_json("POST", "/networks/create", &body)?;
        Ok((answer.status, if answer.status < 300 { String::new() } else { answer.message() }))
    }

    pub(crate) fn clean(&self) {
        clean(self.case.host(), self.case.prefix());
    }
}

impl Drop for Bed<'_> {
    fn drop(&mut self) {
        self.plugin.behave();
        let _ = self.plugin.come_back();
        self.clean();
    }
}

/// Removes containers and networks whose names begin so.
fn clean(host: &Host, prefix: &str) {
    for (list, remove) in
        [(["ps", "-aq"].as_slice(), ["rm", "-fv"].as_slice()), (&["network", "ls", "-q"], &["network", "rm"])]
    {
        let filter = format!("name={prefix}");
        let found = host.docker(&[list, &["--filter", &filter]].concat(), "").out;
        let found: Vec<&str> = found.lines().collect();
        if !found.is_empty() {
            let _ = host.docker(&[remove, &found].concat(), "");
        }
    }
}

#[allow(dead_code, reason = "not every suite looks at them")]
pub(crate) fn endpoint(case: &Case<'_>, container: &str, network: &str) -> Result<Value> {
    Ok(case.inspect_json(container)?["NetworkSettings"]["Networks"][network].clone())
}

pub(crate) fn reaches(host: &Host, from: &str, address: &str) -> bool {
    host.docker(&["exec", from, "ping", "-c", "1", "-W", "2", address], "").code == 0
}
