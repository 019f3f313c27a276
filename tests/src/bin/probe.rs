//! One program for all probes: `bulkhead-probe bomb --how vfork --seconds 10` prints exact counts as JSON.

use clap::{Parser, Subcommand};
use guard_tests::probe::{
    bomb::{Bomb, Steady, Window},
    call::Call,
    cost::Cost,
    crash::Crash,
    crowd::{Crowd, Leak},
    discard::Discard,
    klog::{self, Syslog},
    link::Link,
    module::Module,
    mount::Mount,
    socket::Socket,
    tally::Counted,
    traffic::Traffic,
    user_namespace::UserNamespace,
};

/// Forks in every way there is, and counts.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Subcommand)]
enum Probe {
    Bomb(Bomb),
    Call(Call),
    Steady(Steady),
    Window(Window),
    Leak(Leak),
    Crowd(Crowd),
    Cost(Cost),
    Crash(Crash),
    Syslog(Syslog),
    Link(Link),
    Module(Module),
    Mount(Mount),
    Discard(Discard),
    Socket(Socket),
    Traffic(Traffic),
    UserNamespace(UserNamespace),
    /// Reads from a descriptor that comes through the socket at standard input.
    Received,
}

fn main() -> anyhow::Result<()> {
    let counted = match Arguments::parse().probe {
        Probe::Bomb(bomb) => bomb.run(),
        Probe::Steady(steady) => steady.run(),
        Probe::Window(window) => window.run(),
        Probe::Leak(leak) => leak.run(&say),
        Probe::Crowd(crowd) => crowd.run(),
        Probe::Crash(crash) => {
            println!("{}", crash.run()?);
            return Ok(());
        }
        Probe::Call(call) => return Ok(call.run()?),
        Probe::Syslog(syslog) => return Ok(syslog.run()?),
        Probe::Link(link) => return Ok(link.run()?),
        Probe::Module(module) => return Ok(module.run()?),
        Probe::Discard(discard) => return Ok(discard.run()?),
        Probe::Mount(mount) => return Ok(mount.run()?),
        Probe::Socket(socket) => return Ok(socket.run()?),
        Probe::Traffic(traffic) => return Ok(traffic.run()?),
        Probe::UserNamespace(namespace) => return Ok(namespace.run()?),
        Probe::Received => return Ok(klog::read_received()?),
        Probe::Cost(cost) => {
            println!("{}", serde_json::to_string(&cost.run()?)?);
            return Ok(());
        }
    }?;
    say(&counted);
    Ok(())
}

fn say(counted: &Counted) {
    if let Ok(line) = serde_json::to_string(counted) {
        println!("{line}");
    }
}
