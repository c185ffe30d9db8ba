//! Files that this program serves, against the real kernel: bytes, errors, ends, EROFS and overlays over them, and the deaths of
//! readers and servers. Needs root, Linux 6.12 and busybox. The binary has a `main` of its own, because it is also the
//! processes that are killed.

mod deaths;
mod files;
mod image;
mod roles;
mod source;

use std::io::Write;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(roles::MODE) {
        return roles::play(&arguments.next().expect("a role"));
    }
    let tests: [(&str, fn()); 12] = [
        ("bytes_are_right", files::bytes_are_right),
        ("answers_come_late_and_in_any_order", files::answers_come_late_and_in_any_order),
        ("errors_do_not_last", files::errors_do_not_last),
        ("the_end_is_told_and_nothing_is_left", files::the_end_is_told_and_nothing_is_left),
        ("what_is_open_needs_no_server_to_open_and_close", files::what_is_open_needs_no_server_to_open_and_close),
        ("images_and_overlays_stand_on_files", files::images_and_overlays_stand_on_files),
        ("programs_run", files::programs_run),
        ("readers_that_wait_can_be_killed", deaths::readers_that_wait_can_be_killed),
        ("the_next_server_answers_what_waited", deaths::the_next_server_answers_what_waited),
        ("a_server_that_leaves_answers_nothing", deaths::a_server_that_leaves_answers_nothing),
        ("a_server_that_reads_its_own_file_can_be_killed", deaths::a_server_that_reads_its_own_file_can_be_killed),
        ("what_cannot_be_gone_on_with", deaths::what_cannot_be_gone_on_with),
    ];
    let mut out = std::io::stdout();
    if std::env::args().any(|argument| argument == "--list") {
        writeln!(out, "privileged_fuse: test\n").expect("stdout");
        return;
    }
    for (name, test) in tests {
        test();
        writeln!(out, "{name} ... ok").expect("stdout");
    }
    writeln!(out, "{} passed, 0 failed", tests.len()).expect("stdout");
}
