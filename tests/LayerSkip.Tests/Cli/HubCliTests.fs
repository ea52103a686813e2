module LayerSkip.Tests.HubCliTests

open System
open System.IO
open System.Threading
open Expecto
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.HubServer
open LayerSkip.Tests.HubSupport

/// The tiny model as a hub has it, and another's folder for the cache; the variables say so while `body` runs.
let private withHub misbehave (body: FakeHub -> string -> unit) =
    withModel (fun model ->
        let files = [
            for path in Directory.GetFiles model -> Path.GetFileName path, File.ReadAllBytes path
        ]

        withFolder (fun home ->
            use hub = new FakeHub(files, misbehave)

            let variables = [
                "HF_HOME", home
                "HF_ENDPOINT", hub.Hub.Url
                "HF_TOKEN", "hf_test"
                "HF_HUB_CACHE", null
                "HF_HUB_OFFLINE", null
                "HF_HUB_DOWNLOAD_TIMEOUT", "30"
            ]

            let before =
                variables |> List.map (fun (name, _) -> name, Environment.GetEnvironmentVariable name)
            let set =
                List.iter (fun (name: string, value: string) ->
                    Environment.SetEnvironmentVariable(name, value))
            set variables

            try
                body hub (Path.Combine(home, "hub"))
            finally
                set before))

let private good (_: Asked) (reply: Reply) = reply
let private snapshot (hub: FakeHub) cache = Path.Combine(hub.FolderIn cache, "snapshots", commit)
let private generate = "generate --prompt-ids 3,4 --max-new-tokens 5 --threads 1 --model"

let private isWeights (asked: Asked) = asked.Method = "GET" && asked.Path.Length = 65

[<Tests>]
let tests =
    testSequenced
    <| testList "command line: models by name" [
        testCase "pull brings a model, and says where it is" (fun () ->
            withHub good (fun hub cache ->
                let outcome = cli [ "pull"; "org/name" ]
                Expect.equal (outcome.Code, outcome.Out) (0, snapshot hub cache + "\n") outcome.Error
                Expect.stringContains outcome.Error "org/name: 100 % of" "how far"
                Expect.stringContains outcome.Error "org/name: 2 files" "what came"
                let again = json [ "pull"; "org/name" ]
                Expect.equal ((again.GetProperty "path").GetString()) (snapshot hub cache) "path"
                Expect.equal ((again.GetProperty "commit").GetString()) commit "commit"
                Expect.equal ((again.GetProperty "fetched_bytes").GetInt64()) 0L "it was there"
                let files = [
                    for file in (again.GetProperty "files").EnumerateArray() ->
                        (file.GetProperty "bytes").GetInt64()
                ]
                Expect.equal (List.sum files) ((again.GetProperty "bytes").GetInt64()) "bytes"
                Expect.equal files.Length 2 "configuration and weights"))

        testCase "with --json standard error is silent" (fun () ->
            withHub good (fun _ _ ->
                let outcome = cli [ "pull"; "org/name"; "--json" ]
                Expect.equal (outcome.Code, outcome.Error) (0, "") "no progress"))

        testCase "the address of a model's page is its name" (fun () ->
            withHub good (fun hub cache ->
                for address in [ $"{hub.Hub.Url}/org/name"; $"{hub.Hub.Url}/org/name/tree/main" ] do
                    let outcome = cli [ "pull"; address ]
                    Expect.equal (outcome.Code, outcome.Out) (0, snapshot hub cache + "\n") outcome.Error

                let made = json (typed $"{generate} {hub.Hub.Url}/org/name")
                Expect.equal ((made.GetProperty "model").GetString()) (snapshot hub cache) "where it is"
                let elsewhere = "https://example.com/org/name"
                [ "pull"; elsewhere ] |> refuses [ elsewhere; "write org/name" ]
                typed $"{generate} {elsewhere}" |> refuses [ elsewhere; "write org/name" ]))

        testCase "a hub that asks for a pause is told of while it is waited for" (fun () ->
            let busy =
                firstTimes 1 (fun asked -> asked.Path.StartsWith "/api") (fun _ reply -> {
                    reply with
                        Status = 429
                        Headers = [ "Retry-After", "1" ]
                })

            withHub busy (fun _ _ ->
                let outcome = cli [ "pull"; "org/name" ]
                Expect.equal outcome.Code 0 outcome.Error
                Expect.stringContains outcome.Error "answers 429; waiting for 1 s" "what it waits for"))

        testCase "--model takes a name, and the model is the folder's, to the bit" (fun () ->
            withHub good (fun hub cache ->
                let named = json (typed $"{generate} org/name")
                let there = json (typed $"{generate} {snapshot hub cache}")
                Expect.equal (tokenIds named) (tokenIds there) "the same text"
                Expect.equal ((named.GetProperty "model").GetString()) (snapshot hub cache) "where it is"
                let info = json [ "info"; "--model"; $"org/name@{commit}" ]
                Expect.equal
                    (((info.GetProperty "model").GetProperty "layers").GetInt32())
                    layers
                    "of a commit"))

        testCase "what is wrong with the command line is told before anything is downloaded" (fun () ->
            withHub good (fun hub _ ->
                for line in [ "--temperature -1"; "--output /nowhere/x" ] do
                    Expect.equal (cli (typed $"{generate} org/name {line}")).Code 2 line

                Expect.isEmpty hub.Hub.Asked "nobody was asked"))

        testCase "a hub that has gone leaves the copy, and says so" (fun () ->
            withHub good (fun hub _ ->
                Expect.equal (cli [ "pull"; "org/name" ]).Code 0 "it is brought"
                (hub :> IDisposable).Dispose()
                let outcome = cli (typed $"{generate} org/name")
                Expect.equal outcome.Code 0 outcome.Error
                Expect.stringContains outcome.Error "cannot be reached" "why"
                Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", "1")
                let offline = cli (typed $"{generate} org/name")
                Expect.equal offline.Code 0 offline.Error
                Expect.isFalse (offline.Error.Contains "reached") "nothing to say"))

        testCase "a model that is not to be had is bad input, a hub that is not there a failure" (fun () ->
            withHub
                (fun asked reply ->
                    if asked.Path.StartsWith "/api" then
                        { reply with Status = 404 }
                    else
                        reply)
                (fun hub _ ->
                    typed $"{generate} org/name" |> refuses [ "org/name"; "no such model" ]
                    [ "pull"; "org/na--me" ] |> refuses [ "org/na--me"; "write org/name" ]
                    [ "pull"; "model" ] |> refuses [ "write org/name" ]
                    [ "pull" ] |> refuses [ "name it as org/name" ]
                    Environment.SetEnvironmentVariable("HF_ENDPOINT", "huggingface")
                    [ "pull"; "org/name" ] |> refuses [ "layerskip: HF_ENDPOINT is huggingface" ]
                    Environment.SetEnvironmentVariable("HF_ENDPOINT", hub.Hub.Url)
                    Environment.SetEnvironmentVariable("HF_HUB_DOWNLOAD_TIMEOUT", "soon")
                    [ "pull"; "org/name" ] |> refuses [ "layerskip: HF_HUB_DOWNLOAD_TIMEOUT is soon" ]
                    Environment.SetEnvironmentVariable("HF_HUB_DOWNLOAD_TIMEOUT", "30")
                    (hub :> IDisposable).Dispose()
                    Environment.SetEnvironmentVariable("HF_ENDPOINT", "http://127.0.0.1:1")
                    Environment.SetEnvironmentVariable("HF_HUB_OFFLINE", "1")
                    [ "pull"; "org/name" ] |> refuses [ "HF_HUB_OFFLINE" ]))

        testCase "Ctrl-C leaves what has come, and the next pull goes on" (fun () ->
            let mutable isSlow = true

            let slow (asked: Asked) (reply: Reply) =
                if isSlow && isWeights asked then
                    match asked.Start with
                    | None -> { reply with Cut = Some 5000 }
                    | Some _ -> { reply with Pause = TimeSpan.FromSeconds 60.0 }
                else
                    reply

            withHub slow (fun hub cache ->
                let blobs = Path.Combine(hub.FolderIn cache, "blobs")

                let outcome =
                    shell
                        cache[.. cache.LastIndexOf '/']
                        $"set -m
                          layerskip pull org/name 2>error & job=$!
                          for i in $(seq 300); do [ $(cat {blobs}/*.incomplete 2>/dev/null | wc -c) = 5000 ] && break; sleep 0.1; done
                          sleep 0.5
                          kill -INT $job; wait $job; code=$?; cat error >&2; exit $code"

                Expect.equal (outcome.Code, outcome.Out) (130, "") outcome.Error
                Expect.stringContains outcome.Error "layerskip: interrupted" "why"
                let left = Directory.GetFiles blobs |> Array.filter _.EndsWith(".incomplete")
                Expect.equal (left |> Array.map (FileInfo >> _.Length)) [| 5000L |] "what came"
                Expect.isFalse (File.Exists(Path.Combine(snapshot hub cache, "config.json"))) "no model"
                isSlow <- false
                Expect.equal (cli [ "pull"; "org/name" ]).Code 0 "it comes"
                let starts = hub.Store.Asked |> List.map _.Start
                Expect.equal (List.last starts) (Some 5000L) "its rest"
                Expect.isEmpty (Directory.GetFiles(blobs, "*.incomplete")) "nothing is left over"))

        testCase "two processes at once bring a model once" (fun () ->
            let slow (asked: Asked) (reply: Reply) =
                if isWeights asked then
                    { reply with Pause = TimeSpan.FromSeconds 3.0 }
                else
                    reply

            withHub slow (fun hub cache ->
                let outcome =
                    shell
                        cache[.. cache.LastIndexOf '/']
                        "(layerskip pull org/name --json >one) & (layerskip pull org/name --json >two) & wait; cat one two"

                Expect.equal outcome.Code 0 outcome.Error
                Expect.equal (outcome.Out.Split(snapshot hub cache).Length) 3 "both have it"
                Expect.equal (hub.Store.Asked |> List.filter isWeights |> List.length) 1 "it came once"))
    ]
