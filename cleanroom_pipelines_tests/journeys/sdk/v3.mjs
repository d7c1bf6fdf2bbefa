// The journey through AWS SDK for JavaScript v3: node v3.mjs < world.json

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { CleanRooms } from "@aws-sdk/client-cleanrooms";

import { live } from "./journey.mjs";
import { sdkOf } from "./lookalikes.mjs";

const world = JSON.parse(readFileSync(0, "utf8"));
const sdk = sdkOf(JSON.parse(readFileSync(world.model, "utf8")));
const clients = {};
for (const party of ["publisher", "advertiser"]) {
  const { key_id: accessKeyId, secret: secretAccessKey } = world[party];
  clients[party] = new sdk.CleanRoomsMLClient({
    endpoint: world.endpoint,
    region: world.region,
    credentials: { accessKeyId, secretAccessKey },
  });
}

// collaborations, through the published client
const { key_id: accessKeyId, secret: secretAccessKey } = world.advertiser;
const rooms = new CleanRooms({
  endpoint: `${world.endpoint}/`,
  region: world.region,
  credentials: { accessKeyId, secretAccessKey },
});
const { collaborationList } = await rooms.listCollaborations({});
assert.deepEqual(collaborationList.map(({ name }) => name), ["spring"]);
const { memberSummaries } = await rooms.listMembers({ collaborationIdentifier: collaborationList[0].id });
assert.deepEqual(memberSummaries.map(({ accountId }) => accountId), [
  world.publisher.account_id,
  world.advertiser.account_id,
]);

const result = await live(
  {
    call: (party, operation, input) => clients[party].send(new sdk[`${operation}Command`](input)),
    pages: (party, operation, { maxResults, ...input }) =>
      sdk[`paginate${operation}`]({ client: clients[party], pageSize: maxResults }, input),
    isError: (error, name) => error instanceof sdk[name],
    readsMembersOfErrors: true,
  },
  world,
);
console.log(JSON.stringify(result));
