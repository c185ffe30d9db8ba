//! From Docker's profile to a program: settling its conditions, compiling, finding it compiled before, and installing it
//! (as root).

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use dockerd_runtime::seccomp::{Abi, Machine, Profile, SeccompProgram, compile, compile_for};

/// Docker's default capabilities.
const BOUNDING: u64 = 0xa804_25fb;

fn seccomp_compile(criterion: &mut Criterion) {
    let profile = Profile::builtin();
    let settled = profile.resolve(Machine::this(), BOUNDING).expect("the profile is right").expect("it has rules");
    let program = compile_for(&settled, Abi::NATIVE).expect("it compiles");
    assert!(!program.instructions.is_empty());
    let mut group = criterion.benchmark_group("seccomp");
    group.bench_function("resolve", |bencher| bencher.iter(|| profile.resolve(Machine::this(), BOUNDING)));
    group.bench_function("compile", |bencher| bencher.iter(|| compile_for(&settled, Abi::NATIVE)));
    group.bench_function("compile_again", |bencher| bencher.iter(|| compile(&settled)));
    let program = compile(&settled).expect("it compiles");
    group.bench_function("install", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| install(&program)).sum())
    });
    group.finish();
}

/// On a thread of its own, for a filter stays for good.
fn install(program: &SeccompProgram) -> Duration {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let begun = Instant::now();
            dockerd_sys::seccomp::install(&program.instructions, program.flags).expect("as root");
            begun.elapsed()
        });
        thread.join().expect("no panic")
    })
}

criterion_group!(benches, seccomp_compile);
criterion_main!(benches);
