//! Outlets against receivers of this host: slow, gone, back again, and never there.

use std::{
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    path::PathBuf,
};

use super::*;
use crate::klog::forward::said::tests::line;

/// How long anything may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

fn numbered(seq: u64) -> Arc<Line> {
    Arc::new(line(format!("6,{seq},1,-;text {seq}\n").as_bytes()))
}

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("bulkhead-out-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn start(to: Syslog, lines: usize) -> Handle {
    let queue = Queue::new(lines, queue::BYTES);
    Handle::with("test".to_owned(), Way::Syslog(to), queue).unwrap()
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !is() {
        assert!(Instant::now() < until, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_trouble(handle: &Handle, words: &str) {
    wait_for(words, || {
        let trouble = handle.health().trouble;
        trouble.is_some_and(|trouble| trouble.contains(words))
    });
}

fn wait_for_health(handle: &Handle) {
    wait_for("no trouble", || handle.health().trouble.is_none());
}

/// A value of the structured data.
fn field(message: &str, key: &str) -> Option<u64> {
    let (_, rest) = message.split_once(&format!(" {key}=\""))?;
    rest.split_once('"')?.0.parse().ok()
}

/// What a receiver has, and was told that it has not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    seqs: Vec<u64>,
    gaps: u64,
    broken: u64,
}

impl Got {
    fn take(&mut self, message: &str) {
        if message.contains(" kmsg [") {
            let seq = field(message, "seq").unwrap();
            assert!(message.ends_with(&format!("] text {seq}")), "{message}");
            self.seqs.push(seq);
        } else if message.contains(" gap [") {
            let (count, last) = (field(message, "count"), field(message, "last"));
            let first = field(message, "first");
            assert_eq!(count, Some(last.unwrap() - first.unwrap() + 1), "{message}");
            self.gaps += count.unwrap();
        } else {
            assert!(message.contains(" broken ["), "{message}");
            self.broken += 1;
        }
    }

    fn all(&self) -> u64 {
        self.seqs.len() as u64 + self.gaps
    }
}

fn datagrams(read: impl Fn(&mut [u8]) -> io::Result<usize>, got: &mut Got, until: u64) {
    let mut buffer = [0; 9000];
    while got.all() < until {
        let length = read(&mut buffer).unwrap();
        got.take(str::from_utf8(&buffer[..length]).unwrap());
    }
}

/// Reads frames as RFC 6587 counts them.
fn frames(stream: TcpStream, got: &mut Got, until: u64) -> BufReader<TcpStream> {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut stream = BufReader::new(stream);
    while got.all() < until {
        let mut length = 0;
        let mut byte = [0];
        loop {
            stream.read_exact(&mut byte).unwrap();
            if byte == *b" " {
                break;
            }
            assert!(byte[0].is_ascii_digit(), "{byte:?}");
            length = 10 * length + usize::from(byte[0] - b'0');
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).unwrap();
        got.take(str::from_utf8(&message).unwrap());
    }
    stream
}

fn ends(handle: &Handle) {
    handle.close(SOON);
    assert!(handle.wait(SOON));
}

#[test]
fn each_line_is_a_datagram_and_what_waits_goes_out_at_the_end() {
    let path = path("all");
    let socket = UnixDatagram::bind(&path).unwrap();
    let handle = start(Syslog::Unix(path), 100);
    for seq in 0..100 {
        handle.offer(&numbered(seq));
    }
    let reader = thread::spawn(move || {
        let mut got = Got::default();
        datagrams(|buffer| socket.recv(buffer), &mut got, 100);
        got
    });
    ends(&handle);
    let got = reader.join().unwrap();
    assert!(got.seqs.iter().copied().eq(0..100));
    assert_eq!((got.gaps, got.broken), (0, 0));
    assert_eq!(handle.health().sent, 100);
}

#[test]
fn the_journal_gets_entries() {
    let path = path("journal");
    let socket = UnixDatagram::bind(&path).unwrap();
    let queue = Queue::new(10, queue::BYTES);
    let handle = Handle::with("test".to_owned(), Way::Journal(path), queue).unwrap();
    handle.offer(&numbered(7));
    let mut buffer = [0; 9000];
    let length = socket.recv(&mut buffer).unwrap();
    let entry = str::from_utf8(&buffer[..length]).unwrap();
    assert!(entry.starts_with("MESSAGE=text 7\nPRIORITY=6\n"), "{entry}");
    ends(&handle);
}

#[test]
fn a_receiver_that_stands_still_holds_up_nobody_and_gets_all_or_a_gap() {
    let path = path("still");
    let socket = UnixDatagram::bind(&path).unwrap();
    let handle = start(Syslog::Unix(path), 50);
    let begin = Instant::now();
    for seq in 0..5000 {
        handle.offer(&numbered(seq));
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    wait_for_trouble(&handle, "it takes nothing in");
    let health = handle.health();
    assert!(health.dropped > 0 && health.waiting <= 50, "{health:?}");
    let mut got = Got::default();
    datagrams(|buffer| socket.recv(buffer), &mut got, 5000);
    assert_eq!(got.all(), 5000);
    assert!(got.seqs.is_sorted_by(|one, other| one < other));
    assert_eq!((got.gaps, got.broken), (handle.health().dropped, 0));
    wait_for_health(&handle);
    ends(&handle);
}

#[test]
fn losses_are_told_when_it_goes_well_again_or_once_a_minute() {
    let path = path("told");
    let mut handle = start(Syslog::Unix(path.clone()), 1);
    wait_for_trouble(&handle, "No such file");
    let now = Instant::now();
    for seq in 0..3 {
        handle.offer(&numbered(seq));
    }
    assert_eq!(handle.take_losses(now), Some(2));
    handle.offer(&numbered(3));
    assert_eq!(handle.take_losses(now + TOLD / 2), None);
    assert_eq!(handle.take_losses(now + TOLD), Some(1));
    handle.offer(&numbered(4));
    assert_eq!(handle.take_losses(now + TOLD), None);
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut got = Got::default();
    datagrams(|buffer| socket.recv(buffer), &mut got, 5);
    assert_eq!((got.seqs.as_slice(), got.gaps), ([0].as_slice(), 4));
    wait_for_health(&handle);
    assert_eq!(handle.take_losses(now + TOLD), Some(1));
    assert_eq!(handle.take_losses(now + 2 * TOLD), None);
    ends(&handle);
}

#[test]
fn a_unix_receiver_that_is_started_anew_gets_what_waited_and_is_told_of_the_break() {
    let path = path("anew");
    let handle = start(Syslog::Unix(path.clone()), 100);
    wait_for_trouble(&handle, "No such file");
    handle.offer(&numbered(0));
    let mut got = Got::default();
    for round in 1..=2 {
        let socket = UnixDatagram::bind(&path).unwrap();
        datagrams(|buffer| socket.recv(buffer), &mut got, 10 * round - 9);
        for seq in 10 * round - 9..10 * round {
            handle.offer(&numbered(seq));
        }
        datagrams(|buffer| socket.recv(buffer), &mut got, 10 * round);
        drop(socket);
        fs::remove_file(&path).unwrap();
        handle.offer(&numbered(10 * round));
        wait_for("a trouble", || handle.health().trouble.is_some());
    }
    assert!(got.seqs.iter().copied().eq(0..20), "{got:?}");
    assert_eq!((got.gaps, got.broken), (0, 1));
    // What waits for somebody who is gone is given up at once, and counted.
    handle.close(SOON);
    assert!(handle.wait(SOON));
    assert_eq!(handle.health().dropped, 1);
}

#[test]
fn a_stream_has_each_line_with_its_length_and_goes_on_after_a_stall() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let handle = start(Syslog::Tcp(to), 1000);
    let (stream, _) = listener.accept().unwrap();
    let mut offered = 0;
    // More than the sockets of both sides hold, and the queue.
    wait_for("a stall", || {
        for _ in 0..1000 {
            handle.offer(&numbered(offered));
            offered += 1;
        }
        let health = handle.health();
        health.dropped > 0 && health.trouble.is_some()
    });
    assert!(handle.health().trouble.unwrap().contains("takes nothing"));
    let mut got = Got::default();
    let _stream = frames(stream, &mut got, offered);
    assert_eq!(got.all(), offered);
    assert!(got.seqs.is_sorted_by(|one, other| one < other));
    assert_eq!((got.gaps, got.broken), (handle.health().dropped, 0));
    wait_for_health(&handle);
    ends(&handle);
}

#[test]
fn a_stream_that_was_closed_is_opened_anew_before_a_line_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let handle = start(Syslog::Tcp(to.clone()), 1000);
    let mut got = Got::default();
    let mut open = None;
    for round in 0..3 {
        handle.offer(&numbered(2 * round));
        let (stream, _) = listener.accept().unwrap();
        let stream = frames(stream, &mut got, 2 * round + 1);
        handle.offer(&numbered(2 * round + 1));
        let again = stream.get_ref().try_clone().unwrap();
        // The receiver's own words are read past.
        (&again).write_all(b"what is this?").unwrap();
        open = Some(frames(again, &mut got, 2 * round + 2));
        if round < 2 {
            drop((stream, open.take()));
            // The end of the connection is a packet as well; before it is there nobody can know.
            thread::sleep(Duration::from_millis(200));
        }
    }
    assert!(got.seqs.iter().copied().eq(0..6), "{got:?}");
    assert_eq!((got.gaps, got.broken), (0, 2));
    // Nobody listens any more.
    drop((listener, open));
    handle.offer(&numbered(6));
    wait_for_trouble(&handle, "refused");
    handle.offer(&numbered(7));
    let listener = TcpListener::bind(&to).unwrap();
    let (stream, _) = listener.accept().unwrap();
    frames(stream, &mut got, 8);
    assert!(got.seqs.iter().copied().eq(0..8), "{got:?}");
    ends(&handle);
}

#[test]
fn a_datagram_that_is_refused_waits_and_one_that_went_before_is_a_gap() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let handle = start(Syslog::Udp(address.to_string()), 1000);
    handle.offer(&numbered(0));
    wait_for_trouble(&handle, "refused");
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    for seq in 1..10 {
        handle.offer(&numbered(seq));
    }
    let mut got = Got::default();
    datagrams(|buffer| socket.recv(buffer), &mut got, 10);
    assert_eq!(handle.health().dropped, 0);
    wait_for("all sent", || handle.health().sent == 10);
    drop(socket);
    handle.offer(&numbered(10));
    wait_for("sent to nobody", || handle.health().sent == 11);
    handle.offer(&numbered(11));
    wait_for_trouble(&handle, "refused");
    assert_eq!((handle.health().dropped, handle.health().sent), (1, 10));
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    datagrams(|buffer| socket.recv(buffer), &mut got, 12);
    assert_eq!(got.seqs, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11]);
    assert_eq!((got.gaps, got.broken), (1, 1));
    ends(&handle);
}

#[test]
fn a_name_without_an_address_is_trouble_and_holds_up_nobody() {
    let handle = start(Syslog::Tcp("bulkhead.invalid:601".to_owned()), 10);
    let begin = Instant::now();
    for seq in 0..1000 {
        handle.offer(&numbered(seq));
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(handle.health().dropped, 990);
    wait_for("a trouble", || handle.health().trouble.is_some());
    handle.close(Duration::ZERO);
    assert!(handle.wait(SOON));
    assert_eq!(handle.health().dropped, 1000);
}
