//! A plain HTTP/1.1 client over a socket, which can also misbehave.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;

use crate::process::PATIENCE;

/// One connection; it is kept alive.
pub struct Http {
    reader: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON of a good answer.
    ///
    /// # Panics
    /// If the answer is not 200.
    #[must_use]
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(
            self.status,
            200,
            "{:?}",
            String::from_utf8_lossy(&self.body)
        );
        self.json()
    }

    /// The lines of a stream, each as JSON.
    ///
    /// # Panics
    /// If a line is no JSON.
    #[must_use]
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Asserts a refusal with this status and reason, and gives it.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn refused(&self, status: u16, reason: &str) -> Value {
        let json = self.json();
        assert_eq!(self.header("content-type"), Some("application/json"));
        let found = &json["details"][0]["reason"];
        assert_eq!(
            (self.status, found.as_str()),
            (status, Some(reason)),
            "{json}"
        );
        assert!(!json["message"].as_str().unwrap().is_empty());
        json
    }

    /// Asserts a refusal that names this field.
    ///
    /// # Panics
    /// If it names none, or another.
    #[track_caller]
    pub fn names(&self, field: &str) {
        let json = self.refused(400, "INVALID_ARGUMENT");
        assert_eq!(json["details"][0]["metadata"]["field"], field, "{json}");
    }
}

impl Http {
    /// Connects.
    ///
    /// # Panics
    /// If there is no server.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Http {
        Http::try_connect(address).unwrap()
    }

    /// Connects, if there is a server.
    ///
    /// # Errors
    /// Why not.
    pub fn try_connect(address: SocketAddr) -> std::io::Result<Http> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Http {
            reader: BufReader::new(stream),
        })
    }

    /// The socket, to misbehave on.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.reader.get_mut()
    }

    /// Sends a request with a body and takes the answer.
    ///
    /// # Panics
    /// If the connection breaks.
    #[track_caller]
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: broker\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        self.socket().write_all(text.as_bytes()).unwrap();
        self.socket().write_all(body).unwrap();
        self.answer(method == "HEAD").unwrap()
    }

    /// GET.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    /// POST with a JSON body.
    #[track_caller]
    pub fn post(&mut self, path: &str, json: &Value) -> Answer {
        let body = json.to_string();
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// If the connection ends before.
    ///
    /// # Panics
    /// If it is no HTTP.
    pub fn answer(&mut self, without_body: bool) -> std::io::Result<Answer> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        if without_body || status == 204 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = answer.header("content-length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut answer.body)?;
        } else {
            self.reader.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// One chunk of a chunked body; none at its end.
    ///
    /// # Errors
    /// If the connection ends before.
    ///
    /// # Panics
    /// If it is no chunk.
    pub fn chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut chunk = vec![0; size];
        self.reader.read_exact(&mut chunk)?;
        self.line()?;
        Ok((size > 0).then_some(chunk))
    }

    /// One line without its end.
    ///
    /// # Errors
    /// If the connection ends before.
    pub fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
