//! Something between a client and an AMQP server that passes all on, and writes down what the client asked for.

use std::sync::{Arc, Mutex};

use amq_protocol::frame::{AMQPFrame, parse_frame};
use amq_protocol::protocol::AMQPClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// The bytes of each connection.
type Books = Arc<Mutex<Vec<Vec<u8>>>>;

pub(crate) struct Recorder {
    port: u16,
    books: Books,
}

impl Recorder {
    /// Records those who connect to it instead of to the server.
    pub(crate) async fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, books) = (listener.local_addr().unwrap().port(), Books::default());
        tokio::spawn(serve(listener, server, Arc::clone(&books)));
        Self { port, books }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What was asked for so far.
    pub(crate) fn methods(&self) -> Vec<AMQPClass> {
        self.books.lock().unwrap().iter().flat_map(|bytes| methods(bytes)).collect()
    }
}

async fn serve(listener: TcpListener, server: u16, books: Books) {
    while let Ok((client, _)) = listener.accept().await {
        let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        let number = {
            let mut books = books.lock().unwrap();
            books.push(Vec::new());
            books.len() - 1
        };
        let books = Arc::clone(&books);
        tokio::spawn(async move {
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            let mut bytes = [0; 4096];
            while let Ok(size @ 1..) = from_client.read(&mut bytes).await {
                books.lock().unwrap()[number].extend(&bytes[..size]);
                if to_server.write_all(&bytes[..size]).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn methods(bytes: &[u8]) -> Vec<AMQPClass> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Ok((others, frame)) = parse_frame(rest) {
        rest = others;
        if let AMQPFrame::Method(_, method) = frame {
            found.push(method);
        }
    }
    found
}
