//! Adding an image: the one request whose body is larger than memory.

use crate::calls::escaped;
use crate::http::{Call, Failed, collect, read_error};
use crate::retry::{Retry, worth_another_try};
use crate::{Client, Result, new_key};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame};
use hyper::{Method, Request};
use pitstop_wire::api::Image;
use pitstop_wire::{ApiError, Code};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncSeekExt, ReadBuf};

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// A file as a request's body.
struct FileBody {
    file: File,
    buffer: Vec<u8>,
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let mut buffer = ReadBuf::new(&mut this.buffer);
        ready!(Pin::new(&mut this.file).poll_read(cx, &mut buffer))?;
        let bytes = Bytes::copy_from_slice(buffer.filled());
        Poll::Ready((!bytes.is_empty()).then_some(Ok(Frame::data(bytes))))
    }
}

impl Client {
    /// Adds an image from a file, raw or zstd. `seed`: `none`, or
    /// `OFFSET,LENGTH` in bytes; found by the daemon unless said. `replace`:
    /// a name that stands for another image is taken from it.
    ///
    /// # Errors
    /// Where the file cannot be read or the daemon refuses it.
    pub async fn add_image(
        &self,
        name: &str,
        file: File,
        seed: Option<&str>,
        replace: bool,
        key: Option<String>,
    ) -> Result<Image> {
        let seed = seed.map(|s| format!("&seed={}", escaped(s))).unwrap_or_default();
        let path = format!("/images/{}?replace={replace}{seed}", escaped(name));
        let key = key.map_or_else(new_key, Ok)?;
        let call = Call { method: Method::PUT, path, body: None, key: Some(key), upgrade: false };
        let mut retry = Retry::new(self.patience());
        loop {
            let error = match self.upload(&call, &file).await {
                Ok(bytes) => return self.read(&call, &bytes),
                Err(error) => error,
            };
            if !self.met() || !worth_another_try(&error) || !retry.pause(&error).await {
                return Err(error.into_api(&call));
            }
        }
    }

    async fn upload(&self, call: &Call, file: &File) -> std::result::Result<Bytes, Failed> {
        let unreadable = |e: io::Error| {
            Failed::Answer(ApiError::new(Code::Usage, format!("the image's file cannot be read: {e}")))
        };
        let mut file = file.try_clone().await.map_err(unreadable)?;
        file.rewind().await.map_err(unreadable)?;
        let body = FileBody { file, buffer: vec![0; PIECE] };
        let (parts, _) = call.request().map_err(Failed::Answer)?.into_parts();
        let request = Request::from_parts(parts, body.boxed());
        let mut sender = self.connect_for().await?;
        let response = sender.send_request(request).await.map_err(|e| Failed::Lost(e.to_string()))?;
        let (status, bytes) = collect(response).await?;
        if status.is_success() { Ok(bytes) } else { Err(Failed::Answer(read_error(status, &bytes))) }
    }
}
