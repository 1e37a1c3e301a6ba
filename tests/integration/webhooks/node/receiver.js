"use strict";
// A receiver, and a sender, with the `standardwebhooks` package; its folder is the argument.
//
//   POST /verify   a webhook as it was sent: 204 if it holds, 401 if not
//   POST /sign     a body, with x-id and x-timestamp: answers with its signature
//
// The secret is in the header x-secret.  Ends when its standard input does.
const http = require("node:http");
const path = require("node:path");
const { createRequire } = require("node:module");

const { Webhook, WebhookVerificationError } = createRequire(path.join(process.argv[2], "x.js"))(
  "standardwebhooks",
);

function answer(request, body) {
  const webhook = new Webhook(request.headers["x-secret"]);
  if (request.url === "/sign") {
    const moment = new Date(Number(request.headers["x-timestamp"]) * 1000);
    return [200, webhook.sign(request.headers["x-id"], moment, body)];
  }
  try {
    webhook.verify(body, request.headers, { jsonParse: false });
    return [204, ""];
  } catch (error) {
    if (error instanceof WebhookVerificationError) return [401, error.message];
    throw error;
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    let status, text;
    try {
      [status, text] = answer(request, Buffer.concat(chunks));
    } catch (error) {
      [status, text] = [500, String(error)];
    }
    response.writeHead(status).end(text);
  });
});

server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.resume().on("end", () => process.exit(0));
