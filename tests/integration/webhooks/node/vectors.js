"use strict";
// A verifier written from docs/reference/webhook-vectors.md alone, with nothing but Node.
//
// Runs every vector of the file that is its argument, and prints the ids of those whose
// outcome is another than the file's, as JSON.
const crypto = require("node:crypto");
const fs = require("node:fs");

const spaced = (prefix) => ({
  header: `${prefix}-signature`,
  id: `${prefix}-id`,
  time: `${prefix}-timestamp`,
  head: (id, time) => `${id}.${time}.`,
  form: "spaced",
  schemes: { v1: ["standard", "base64"], v1a: ["public", "base64"] },
});
const profiles = {
  standard: spaced("webhook"),
  svix: spaced("svix"),
  twh: {
    header: "x-twh-signature", id: "x-twh-id", head: (id, time) => `${id}.${time}.`, form: "fields",
    schemes: { v1: ["standard", "hex"] },
  },
  stripe: { header: "stripe-signature", head: (_, time) => `${time}.`, form: "fields", schemes: { v1: ["raw", "hex"] } },
  convoy: { header: "x-convoy-signature", head: (_, time) => `${time},`, form: "fields", schemes: { v1: ["raw", "hex"] } },
  slack: {
    header: "x-slack-signature", time: "x-slack-request-timestamp", head: (_, time) => `v0:${time}:`, form: "prefixed",
    schemes: { v0: ["raw", "hex"] },
  },
  github: { header: "x-hub-signature-256", head: () => "", form: "prefixed", schemes: { sha256: ["raw", "hex"] } },
  shopify: { header: "x-shopify-hmac-sha256", head: () => "", form: "plain", schemes: { "": ["raw", "base64"] } },
  outpost: { header: "x-outpost-signature", head: () => "", form: "prefixed", schemes: { v0: ["raw", "hex"] } },
};

class Refused extends Error {}

function must(holds, code) {
  if (!holds) throw new Refused(code);
}

function only(headers, name) {
  const values = headers.filter(([one]) => one.toLowerCase() === name).map(([, value]) => value);
  must(values.length <= 1, "duplicate_header");
  must(values.length === 1 && values[0] !== "", "missing_header");
  must(values[0].length <= 8192, "malformed_header");
  return values[0];
}

function tokens(form, value) {
  const [separator, mark] = { spaced: [" ", ","], fields: [",", "="], prefixed: [",", "="] }[form] ?? [];
  if (form === "plain") return { found: [["", value]] };
  let parts = value.split(separator);
  if (form === "prefixed") {
    const at = value.indexOf(mark);
    if (at < 0) return { found: [] };
    parts = value.slice(at + 1).split(separator).map((text) => value.slice(0, at) + mark + text);
  }
  must(parts.length <= (form === "fields" ? 17 : 16), "malformed_header");
  const pairs = parts.filter((part) => part.includes(mark)).map((part) => {
    const at = part.indexOf(mark);
    return [part.slice(0, at), part.slice(at + 1)];
  });
  if (form !== "fields") return { found: pairs };
  const stamps = pairs.filter(([name]) => name === "t");
  must(stamps.length === 1, "malformed_header");
  return { time: stamps[0][1], found: pairs.filter(([name]) => name !== "t") };
}

function timestamp(text, now) {
  must(/^[1-9][0-9]{0,11}$/.test(text) && !text.includes("\n"), "timestamp_malformed");
  const age = Math.floor(now) - Number(text);
  must(age <= 300, "too_old");
  must(age >= -300, "too_new");
  return { timestamp: Number(text), age };
}

function checkedId(text) {
  must(/^[A-Za-z0-9_-]{1,256}$/.test(text) && !text.includes("\n"), "malformed_header");
  return text;
}

const good = (key, now) =>
  key.state !== "revoked" && now >= (key.not_before ?? -Infinity) && now <= (key.not_after ?? Infinity);

const prefixes = { standard: "whsec_", public: "whpk_" };

function bytesOf(key) {
  const prefix = prefixes[key.type];
  if (key.type !== "raw") {
    must(key.text.startsWith(prefix), "secret_malformed");
    return Buffer.from(key.text.slice(prefix.length), "base64");
  }
  const raw = Buffer.from(key.base64, "base64");
  must(!/^wh[ps]k_/.test(raw.toString("latin1")), "secret_malformed");
  return raw;
}

function fits(key, encoding, message, text) {
  if (key.type !== "public") {
    const mac = crypto.createHmac("sha256", bytesOf(key)).update(message).digest(encoding);
    const [one, two] = [Buffer.from(mac), Buffer.from(text, "latin1")];
    return one.length === two.length && crypto.timingSafeEqual(one, two);
  }
  const signature = Buffer.from(text, "base64");
  if (signature.length !== 64 || signature.toString("base64") !== text) return false;
  const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), bytesOf(key)]);
  const publicKey = crypto.createPublicKey({ key: der, format: "der", type: "spki" });
  return crypto.verify(null, message, publicKey, signature);
}

function verify(vector) {
  const body = Buffer.from(vector.body, "base64");
  if (vector.profile === "message") return verifyMessage(vector, body);
  const profile = profiles[vector.profile];
  const value = only(vector.headers, profile.header);
  const id = profile.id ? checkedId(only(vector.headers, profile.id)) : "";
  let { time, found } = tokens(profile.form, value);
  if (profile.time) time = only(vector.headers, profile.time);
  const times = time === undefined ? { timestamp: 0, age: 0 } : timestamp(time, vector.now);
  const message = Buffer.concat([Buffer.from(profile.head(id, time)), body]);
  for (const key of vector.keys.filter((one) => good(one, vector.now))) {
    for (const [scheme, text] of found) {
      const [type, encoding] = Object.hasOwn(profile.schemes, scheme) ? profile.schemes[scheme] : [];
      if (type === key.type && fits(key, encoding, message, text)) {
        return { id, ...times, key_id: key.id, scheme };
      }
    }
  }
  throw new Refused("signature_mismatch");
}

const LIST = '("@method" "@target-uri" "content-digest" "webhook-id")';
const INPUT = new RegExp(
  `^twh=(${LIST.replace(/[()]/g, "\\$&")};created=([^;]{1,32});keyid="([!#-\\[\\]-~]{1,256})"` +
    ';alg="([a-z0-9-]{1,32})";tag="twh-webhook")$',
);

function verifyMessage(vector, body) {
  const [id, digest, input, signature] = ["webhook-id", "content-digest", "signature-input", "signature"].map((name) =>
    only(vector.headers, name),
  );
  const params = INPUT.exec(input);
  const text = /^twh=:([A-Za-z0-9+/]+={0,2}):$/.exec(signature);
  must(params && text && !/\n/.test(input + signature), "malformed_header");
  checkedId(id);
  const times = timestamp(params[2], vector.now);
  const key = vector.keys.find((one) => one.id === params[3] && good(one, vector.now));
  must(key, "key_unknown");
  const algorithm = key.type === "public" ? "ed25519" : "hmac-sha256";
  must(algorithm === params[4], "no_supported_scheme");
  const lines = [
    `"@method": ${vector.method}`,
    `"@target-uri": ${new URL(vector.url).href}`,
    `"content-digest": ${digest}`,
    `"webhook-id": ${id}`,
    `"@signature-params": ${params[1]}`,
  ];
  must(fits(key, "base64", Buffer.from(lines.join("\n"), "latin1"), text[1]), "signature_mismatch");
  const sum = crypto.createHash("sha256").update(body).digest("base64");
  must(digest === `sha-256=:${sum}:`, "signature_mismatch");
  return { id, ...times, key_id: key.id, scheme: algorithm };
}

function holds(vector) {
  try {
    const found = verify(vector);
    return vector.result === "valid" && Object.entries(vector.verified).every(([name, one]) => found[name] === one);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return vector.result === "invalid";
  }
}

const { vectors } = JSON.parse(fs.readFileSync(process.argv[2]));
const failed = vectors.filter((vector) => !holds(vector)).map((vector) => vector.id);
console.log(JSON.stringify({ run: vectors.length, failed }));
