//! Timers of flows that have ended, and of times that have moved: they do not add up; see world.rs.

use smoltcp::time::Duration;

use crate::streams::write_some;
use crate::world::{TARGET, World};

/// More than are left alone because they are not worth looking for.
const MANY: u16 = 1500;

#[test]
fn timers_of_connections_that_have_ended_are_dropped_before_their_time() {
    let mut world = World::plain();
    for number in 0..MANY {
        let (handle, _stream) = world.open(TARGET, 20_000 + number);
        world.socket(handle).abort();
        world.until("the reset is taken", |world| world.stack.usage().0 == 0);
        world.program.sockets.remove(handle);
    }
    assert!(world.stack.usage().1 < usize::from(MANY), "{} timers for no flow", world.stack.usage().1);
    world.assert_empty();
}

#[test]
fn timers_of_a_connection_that_is_used_now_and_then_do_not_add_up() {
    let mut world = World::plain();
    let flows: Vec<_> = (0..10).map(|number| world.open(TARGET, 20_000 + number)).collect();
    for round in 0..u64::from(MANY) / 10 {
        for (_, stream) in &flows {
            write_some(stream, b"now and then", &mut 0);
        }
        let all = 12 * flows.len() as u64 * (round + 1);
        world.until("all of it has come down", |world| world.value("bytes_down") == all);
        world.rest(Duration::from_millis(1500));
    }
    assert!(world.stack.usage().1 < usize::from(MANY), "{} timers for ten flows", world.stack.usage().1);
}
