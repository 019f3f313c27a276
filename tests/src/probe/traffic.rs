//! Ways to set up traffic control for which there is no tool: messages of rtnetlink as no tool writes them, on every way to send one.
//! All are about the loopback device of the namespace.

use std::{io, os::fd::AsRawFd};

use clap::{Args, ValueEnum};

use super::link::{
    ACK, CREATE, EXCL, NESTED, REQUEST, answer, attribute, by_io_uring, came_of, message_of,
    rtnetlink, send, send_two, text,
};

/// Sets up traffic control on the loopback device by hand-written messages of rtnetlink.
#[derive(Args, Clone, Debug)]
pub struct Traffic {
    /// How the request is written, or sent.
    #[arg(long, value_enum)]
    pub way: Way,
    /// The qdisc's kind, where the way leaves it open.
    #[arg(long, default_value = "sfq")]
    pub kind: String,
    /// How many, where the way makes many.
    #[arg(long, default_value_t = 1)]
    pub count: u32,
}

/// How a request is written, or sent.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Way {
    /// As `tc qdisc add dev lo root handle 1:` does.
    Plain,
    /// Another kind first, which the kernel forgets over the second.
    Twice,
    /// The kind without a NUL at its end.
    Unterminated,
    /// The type with the flag of a nest (`NLA_F_NESTED`).
    Flagged,
    /// Behind a message that does nothing, in one send.
    Second,
    /// Behind so many attributes that mean nothing as `count` says.
    Long,
    /// With two messages in one sendmmsg(2).
    Sendmmsg,
    /// By write(2).
    Write,
    /// By io_uring.
    IoUring,
    /// By io_uring, done by a worker of its own.
    IoUringAsync,
    /// Changes the qdisc that is there, a pfifo, and does not say its kind.
    Untold,
    /// A filter of the kind fw below the qdisc 1: that polices in the way from before there were actions.
    OldPolice,
    /// A filter of the kind fw below the qdisc 1: whose actions, of which the second is a pedit, come before its kind.
    Backwards,
    /// Takes the qdisc away again.
    Remove,
}

const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const NEW_FILTER: u16 = 44;
const LOOPBACK: u32 = 1;
const ROOT: u32 = u32::MAX;
/// The handle 1:0.
const HANDLE: u32 = 1 << 16;
/// The first filter of its kind, for IP as the network writes it.
const FIRST_FOR_IP: u32 = 1 << 16 | (0x0800_u16.to_be() as u32);

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const MEANS_NOTHING: u16 = 9;

const MAKE: u16 = REQUEST | ACK | CREATE | EXCL;

/// A message about traffic control (`struct tcmsg`).
fn message(kind: u16, flags: u16, place: [u32; 3], attributes: &[Vec<u8>]) -> Vec<u8> {
    let [handle, parent, info] = place;
    let words = [0, LOOPBACK, handle, parent, info];
    message_of(
        kind,
        flags,
        &words.map(u32::to_ne_bytes).concat(),
        attributes,
    )
}

impl Traffic {
    /// Does it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn run(&self) -> io::Result<()> {
        let kind = || attribute(KIND, &text(&self.kind));
        let make = |attributes: &[Vec<u8>]| message(NEW_QDISC, MAKE, [HANDLE, ROOT, 0], attributes);
        let filter = |attributes: &[Vec<u8>]| {
            message(NEW_FILTER, MAKE, [1, HANDLE, FIRST_FOR_IP], attributes)
        };
        let plain = || make(&[kind()]);
        let socket = rtnetlink()?;
        let answers = match self.way {
            Way::Plain => send(&socket, &plain())?,
            Way::Twice => send(&socket, &make(&[attribute(KIND, &text("pfifo")), kind()]))?,
            Way::Unterminated => send(&socket, &make(&[attribute(KIND, self.kind.as_bytes())]))?,
            Way::Flagged => {
                let kind = attribute(KIND | NESTED, &text(&self.kind));
                send(&socket, &make(&[kind]))?
            }
            Way::Second => {
                // Without a flag that it is a request, which the kernel passes over.
                let nothing = message(NEW_QDISC, 0, [HANDLE, ROOT, 0], &[]);
                send(&socket, &[nothing, plain()].concat())?
            }
            Way::Long => {
                let mut all = vec![attribute(MEANS_NOTHING, b""); self.count as usize];
                all.push(kind());
                send(&socket, &make(&all))?
            }
            Way::Sendmmsg => send_two(&socket, &plain())?,
            Way::Write => {
                let bytes = plain();
                // SAFETY: the buffer is as long as it says.
                let written =
                    unsafe { libc::write(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
                came_of(written)?;
                1
            }
            Way::IoUring => by_io_uring(&socket, &plain(), false)?,
            Way::IoUringAsync => by_io_uring(&socket, &plain(), true)?,
            Way::Untold => {
                // `struct tc_fifo_qopt`: how many packets.
                let options = attribute(OPTIONS, &77_u32.to_ne_bytes());
                let change = message(NEW_QDISC, REQUEST | ACK, [HANDLE, ROOT, 0], &[options]);
                send(&socket, &change)?
            }
            Way::OldPolice => {
                // `struct tc_police`, of which zeros are one, as TCA_POLICE_TBF in TCA_FW_POLICE.
                let police = attribute(2, &attribute(1, &[0; 56]));
                let fw = attribute(KIND, &text("fw"));
                send(&socket, &filter(&[fw, attribute(OPTIONS, &police)]))?
            }
            Way::Backwards => {
                let action = |place, name, parameters: u16, held: &[u8]| {
                    let options = attribute(2, &attribute(parameters, held));
                    attribute(place, &[options, attribute(1, &text(name))].concat())
                };
                // TCA_GACT_PARMS: `struct tc_gact`. TCA_PEDIT_PARMS: `struct tc_pedit_sel` with one key, which changes nothing.
                let gact = action(1, "gact", 2, &[0; 20]);
                let mut selector = [0; 24 + 24];
                selector[20] = 1;
                selector[24..28].fill(0xff);
                let pedit = action(2, "pedit", 2, &selector);
                // TCA_FW_ACT.
                let actions = attribute(4, &[gact, pedit].concat());
                let fw = attribute(KIND, &text("fw"));
                send(&socket, &filter(&[attribute(OPTIONS, &actions), fw]))?
            }
            Way::Remove => {
                let remove = message(DELETE_QDISC, REQUEST | ACK, [HANDLE, ROOT, 0], &[]);
                send(&socket, &remove)?
            }
        };
        for _ in 0..answers {
            answer(&socket)?;
        }
        Ok(())
    }
}
