// Starts a provider with one client on a free port, and prints its issuer. Any name and password sign in; the name is
// the e-mail address, which is verified unless it starts with "unverified".
import { createServer } from "node:http";
import { Provider } from "oidc-provider";

const [clientId, clientSecret, back, inIdToken] = process.argv.slice(2);
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: clientId, client_secret: clientSecret, redirect_uris: [back] }],
    claims: { openid: ["sub"], email: ["email", "email_verified"] },
    conformIdTokenClaims: inIdToken !== "yes",
    pkce: { required: () => true },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: id, email_verified: !id.startsWith("unverified") }),
    }),
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
