//! A way to a server that can be cut at a command.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where the way is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Before this command gets there.
    Before(&'static str),
    /// After it was done, before its answer comes back.
    After(&'static str),
    /// Nothing gets there, and nothing comes back.
    Hold,
}

/// A way to `to` that is cut where it is told, for every session at once.
pub async fn way(to: SocketAddr, cut: Cut) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move { drop(carry(stream, to, cut).await) });
        }
    });
    address
}

async fn carry(stream: TcpStream, to: SocketAddr, cut: Cut) -> std::io::Result<()> {
    if cut == Cut::Hold {
        return std::future::pending().await;
    }
    let mut server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = stream.into_split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async { tokio::io::copy(&mut from_server, &mut to_client).await.map(|_| false) };
    let commands = async {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let length = from_client.read(&mut chunk).await?;
            let text = String::from_utf8_lossy(&chunk[..length]);
            match cut {
                Cut::Before(word) if text.contains(word) => return Ok(false),
                Cut::After(word) if text.contains(word) => {
                    to_server.write_all(&chunk[..length]).await?;
                    return Ok(true);
                }
                Cut::Before(_) | Cut::After(_) | Cut::Hold if length == 0 => return Ok(false),
                Cut::Before(_) | Cut::After(_) | Cut::Hold => to_server.write_all(&chunk[..length]).await?,
            }
        }
    };
    let linger: std::io::Result<bool> = tokio::select! {
        biased;
        carried = commands => carried,
        copied = answers => copied,
    };
    if linger? {
        // The answer is lost, the command is not.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
