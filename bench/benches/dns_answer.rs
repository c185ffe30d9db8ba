//! From a query's bytes to its answer's: what the resolver of containers does for a name of theirs.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use dockerd_network::dns::{JoinedNetwork, NetworkNames, Registration, SandboxNames, answer};

/// A query for addresses (type A) of `name`, with an EDNS record if `edns`.
fn query(name: &str, edns: bool) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.extend_from_slice(&[0, 0, 1, 0, 1]);
    if edns {
        out.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    out
}

fn dns_answer(c: &mut Criterion) {
    let network = Arc::new(NetworkNames::new("net"));
    for n in 0..=255u8 {
        let names = vec![format!("c{n}"), "all".to_owned()];
        network.register(&n.to_string(), Registration { names, addresses: vec![[10, 0, 0, n].into()] });
    }
    let view = SandboxNames::new(vec![JoinedNetwork { names: network, links: Default::default() }]);
    let mut group = c.benchmark_group("dns_answer");
    for (what, name, edns) in
        [("name", "c7", false), ("name.network, EDNS", "C7.net", true), ("256 addresses", "all", false)]
    {
        let query = query(name, edns);
        let mut out = Vec::new();
        group.bench_function(what, |b| {
            b.iter(|| {
                out.clear();
                assert!(answer(&view, black_box(&query), &mut out));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, dns_answer);
criterion_main!(benches);
