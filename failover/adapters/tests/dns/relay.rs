//! Stands before a server and spoils the answers: for what happens when nobody learns them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a DNS update; questions always pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// It is delivered, and the answer is kept.
    Swallow,
    /// It is delivered, and the connection breaks before the answer.
    Break,
    /// It is delivered, and the answer says SERVFAIL, unsigned.
    ServFail,
    /// It is not delivered, and nothing is said.
    Hang,
}

pub struct Relay {
    pub address: SocketAddr,
    left: Arc<AtomicUsize>,
}

impl Relay {
    /// Spoils the first `times` updates.
    pub async fn start(server: SocketAddr, spoil: Spoil, times: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicUsize::new(times));
        let counted = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let left = Arc::clone(&counted);
                tokio::spawn(async move {
                    // A connection that ends is the other side's business.
                    let _ = serve(client, server, spoil, &left).await;
                });
            }
        });
        Self { address, left }
    }

    /// How many updates would still be spoiled.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

async fn frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_u16(u16::try_from(bytes.len()).unwrap()).await?;
    stream.write_all(bytes).await
}

async fn serve(
    mut client: TcpStream,
    server: SocketAddr,
    spoil: Spoil,
    left: &AtomicUsize,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    loop {
        let question = frame(&mut client).await?;
        let update = question[2] >> 3 & 0x0f == 5;
        let spoiled = update
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if spoiled && spoil == Spoil::Hang {
            std::future::pending::<()>().await;
        }
        send(&mut server, &question).await?;
        let answer = frame(&mut server).await?;
        match (spoiled, spoil) {
            (false, _) => send(&mut client, &answer).await?,
            (true, Spoil::Break) => return Ok(()),
            (true, Spoil::Swallow | Spoil::Hang) => std::future::pending::<()>().await,
            (true, Spoil::ServFail) => {
                let mut header = question[..12].to_vec();
                header[2] |= 0x80;
                header[3] = 2;
                header[4..12].fill(0);
                send(&mut client, &header).await?;
            }
        }
    }
}
