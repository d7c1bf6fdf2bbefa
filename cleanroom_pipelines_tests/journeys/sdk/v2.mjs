// The journey through AWS SDK for JavaScript v2, which knows the API as it was in 2024: node v2.mjs < world.json

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import AWS from "aws-sdk";

import { live } from "./journey.mjs";

const world = JSON.parse(readFileSync(0, "utf8"));
const clients = {};
const options = (party) => ({
  endpoint: `${world.endpoint}/`,
  region: world.region,
  credentials: new AWS.Credentials(world[party].key_id, world[party].secret),
});
for (const party of ["publisher", "advertiser"]) clients[party] = new AWS.CleanRoomsML(options(party));

// the services around the API
const sts = new AWS.STS(options("publisher"));
const { Account } = await sts.getCallerIdentity().promise();
assert.equal(Account, world.publisher.account_id);
await assert.rejects(sts.getSessionToken().promise(), { code: "InvalidAction" });
const { collaborationList } = await new AWS.CleanRooms(options("publisher")).listCollaborations().promise();
assert.deepEqual(collaborationList.map(({ name }) => name), ["spring"]);
const s3 = new AWS.S3({ ...options("publisher"), s3ForcePathStyle: true });
const place = { Bucket: `warehouse-${Account}`, Key: "shop/more/day=1/part ü.csv" };
await s3.putObject({ ...place, Body: "user_id\n" }).promise();
assert.equal(String((await s3.getObject(place).promise()).Body), "user_id\n");
await s3.deleteObject(place).promise();

const method = (operation) => operation[0].toLowerCase() + operation.slice(1);
const call = (party, operation, input) => clients[party][method(operation)](input).promise();

async function* pages(party, operation, input) {
  for (let nextToken; ; ) {
    const page = await call(party, operation, { ...input, nextToken });
    yield page;
    nextToken = page.nextToken;
    if (!nextToken) return;
  }
}

const isError = (error, name) => error.code === name;
console.log(JSON.stringify(await live({ call, pages, isError, readsMembersOfErrors: false }, world)));
