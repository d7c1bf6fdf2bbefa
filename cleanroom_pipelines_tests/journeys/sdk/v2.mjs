// The journey through AWS SDK for JavaScript v2, which knows the API as it was in 2024: node v2.mjs < world.json

import { readFileSync } from "node:fs";

import AWS from "aws-sdk";

import { live } from "./journey.mjs";

const world = JSON.parse(readFileSync(0, "utf8"));
const clients = {};
for (const party of ["publisher", "advertiser"]) {
  clients[party] = new AWS.CleanRoomsML({
    endpoint: world.endpoint,
    region: world.region,
    credentials: new AWS.Credentials(world[party].key_id, world[party].secret),
  });
}

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
