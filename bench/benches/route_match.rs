//! Finding the handler of a request in the route table: first, middle and last routes, and none.

use criterion::{Criterion, criterion_group, criterion_main};
use hyper::Method;

fn route_match(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route_match");
    for (name, method, path, found) in [
        ("ping", Method::GET, "/_ping", true),
        ("start", Method::POST, "/v1.51/containers/0123456789abcdef/start", true),
        ("image_with_slashes", Method::GET, "/v1.51/images/registry.example:5000/a/b/c:tag/json", true),
        ("secrets", Method::GET, "/v1.51/secrets", true),
        ("unknown", Method::GET, "/v1.51/nothing/like/it", false),
    ] {
        assert_eq!(api_compat::bench::route(&method, path), found, "{path}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| api_compat::bench::route(&method, std::hint::black_box(path)))
        });
    }
    group.finish();
}

criterion_group!(benches, route_match);
criterion_main!(benches);
