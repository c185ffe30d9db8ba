//! Container names and ids: what a valid name is, and how one is drawn when the client gives none.

use dockerd_types::ContainerId;

const ADJECTIVES: [&str; 64] = [
    "able", "airy", "amber", "apt", "ardent", "balmy", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid",
    "cheery", "civil", "clear", "clever", "cosy", "crisp", "curious", "daring", "deft", "eager", "early", "earnest",
    "fair", "famous", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "happy", "hardy",
    "humble", "jolly", "keen", "kind", "lively", "loyal", "lucid", "mellow", "merry", "mild", "neat", "nimble",
    "noble", "patient", "plucky", "polite", "proud", "quiet", "rapid", "serene", "sharp", "silver", "sound", "steady",
    "sunny", "tidy", "warm",
];

const SURNAMES: [&str; 64] = [
    "abel",
    "agnesi",
    "ampere",
    "arber",
    "babbage",
    "banach",
    "bell",
    "bernoulli",
    "bohr",
    "bose",
    "cantor",
    "cauchy",
    "chandra",
    "cori",
    "curie",
    "darwin",
    "dirac",
    "dijkstra",
    "elion",
    "erdos",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "franklin",
    "galois",
    "gauss",
    "germain",
    "godel",
    "hamilton",
    "herschel",
    "hilbert",
    "hodgkin",
    "hopper",
    "hypatia",
    "jacobi",
    "joule",
    "kepler",
    "kovalevskaya",
    "lagrange",
    "lamarr",
    "laplace",
    "leavitt",
    "lovelace",
    "mayer",
    "maxwell",
    "meitner",
    "mendel",
    "mirzakhani",
    "newton",
    "noether",
    "ohm",
    "pascal",
    "pasteur",
    "perlman",
    "planck",
    "raman",
    "riemann",
    "ritchie",
    "rubin",
    "shannon",
    "turing",
    "volta",
    "wu",
];

/// Draws tried before the id itself serves as a name.
const DRAWS: u32 = 6;

/// Whether `name` (without slash) is `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn is_valid(name: &str) -> bool {
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    name.len() >= 2 && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().skip(1).all(rest)
}

/// Draws names until `claim` takes one; `bytes` gives the chance.
pub fn draw(id: &ContainerId, mut bytes: impl FnMut() -> [u8; 3], mut claim: impl FnMut(&str) -> bool) -> String {
    for attempt in 0..DRAWS {
        let [a, b, c] = bytes();
        let mut name = format!("{}_{}", ADJECTIVES[usize::from(a) % 64], SURNAMES[usize::from(b) % 64]);
        if attempt > 0 {
            name.push(char::from(b'0' + c % 10));
        }
        if claim(&name) {
            return name;
        }
    }
    let name = id.short().to_owned();
    claim(&name);
    name
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

/// A new container id.
pub(crate) fn new_id() -> ContainerId {
    loop {
        if let Some(id) = ContainerId::from_random(random()) {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity() {
        for good in ["ab", "a-b", "0.x_", "A1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", "a b", "a/b", ".ab", "aé"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }

    #[test]
    fn a_taken_name_gets_a_digit_then_the_id() {
        let id = ContainerId::parse(&"ab".repeat(32)).expect("id");
        let mut tried = Vec::new();
        let name = draw(
            &id,
            || [0, 0, 3],
            |name| {
                tried.push(name.to_owned());
                tried.len() == 2
            },
        );
        assert_eq!(name, "able_abel3");
        assert_eq!(draw(&id, || [0, 0, 3], |name| name.len() == 12), "abababababab");
    }

    #[test]
    fn all_words_make_valid_names() {
        for adjective in ADJECTIVES {
            for surname in SURNAMES {
                assert!(is_valid(&format!("{adjective}_{surname}")));
            }
        }
    }
}
