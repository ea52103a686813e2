module LayerSkip.Tests.HubPullTests

open System
open System.Diagnostics
open System.IO
open System.Threading
open System.Threading.Tasks
open Expecto
open LayerSkip
open LayerSkip.Tests.HubServer
open LayerSkip.Tests.HubSupport

let private needed = [
    "config.json"
    "generation_config.json"
    "tokenizer.json"
    "model.safetensors"
]

let private isWeights (asked: Asked) =
    asked.Method = "GET" && not (asked.Path.StartsWith "/org" || asked.Path.StartsWith "/api")
let private isApi (asked: Asked) = asked.Path.StartsWith "/api/"

/// A pull from a hub that misbehaves.
let private against misbehave (body: FakeHub -> string -> unit) =
    withCache (fun cache ->
        use hub = new FakeHub(folderFiles, misbehave)
        body hub cache)

let private comesWhole misbehave =
    against misbehave (fun hub cache -> isWhole hub cache (got (pull hub cache)) needed)

let private cutAt (count: int) (good: Reply) = { good with Cut = Some(min count good.Body.Length) }

/// What the hub says of a file of weights, with another value of a header.
let private tellingOfWeights (header: string) (value: string) (asked: Asked) (good: Reply) =
    if asked.Method = "HEAD" && asked.Path.EndsWith ".safetensors" then
        let headers =
            good.Headers |> List.map (fun (name, own) -> name, (if name = header then value else own))

        { good with Headers = headers }
    else
        good

let private bytesSent (hub: FakeHub) = hub.Store.Asked |> List.filter isWeights |> List.map _.Start

[<Tests>]
let tests =
    testList "hub: a model comes" [
        testCase "with what it needs and nothing else, laid out as Python has it" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let snapshot = got (pull hub cache)
                isWhole hub cache snapshot needed
                let folder = hub.FolderIn cache
                Expect.equal snapshot.Path (Path.Combine(folder, "snapshots", commit)) "where"
                Expect.equal snapshot.Fetched snapshot.Bytes "all of it came"
                let link = FileInfo(Path.Combine(snapshot.Path, "model.safetensors")).LinkTarget
                Expect.equal link $"""../../blobs/{hub.EtagOf "model.safetensors"}""" "a relative link"

                let locks = Directory.GetFiles(Path.Combine(cache, ".locks", "models--org--name"))
                let names = locks |> Array.map Path.GetFileName |> Array.sort |> List.ofArray
                let etags = needed |> List.map (fun name -> hub.EtagOf name + ".lock") |> List.distinct
                Expect.equal names (List.sort etags) "locks"))

        testCase "and is there the next time, when one question is asked" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                pull hub cache |> got |> ignore
                let before = hub.Hub.Asked.Length
                let again = got (pull hub cache)
                isWhole hub cache again needed
                Expect.equal again.Fetched 0L "nothing came"
                let more = hub.Hub.Asked |> List.skip before
                Expect.isTrue
                    (more |> List.forall (fun asked -> asked.Method = "HEAD" || isApi asked))
                    $"%A{more}"
                Expect.equal hub.Store.Asked.Length 1 "the store was asked once"))

        testCase "by its commit without a network" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let first = got (pull hub cache)
                let before = hub.Hub.Asked.Length
                let again = got (pullWith (options hub cache) $"org/name@{commit}")
                Expect.equal again.Path first.Path "the same"
                Expect.equal hub.Hub.Asked.Length before "nobody was asked"))

        testCase "in shards, as its index names them, several at a time" (fun () ->
            let shards = [ for i in 1..5 -> $"model-0000{i}-of-00005.safetensors", bytes (50_000 + i) i ]

            let index =
                shards
                |> List.mapi (fun i (name, _) -> $"\"t{i}\": \"{name}\"")
                |> String.concat ","
                |> fun map -> text $"{{\"weight_map\": {{{map}}}}}"

            let files =
                [
                    "config.json", text "{}"
                    "model.safetensors.index.json", index
                    "model-00009-of-00009.safetensors", bytes 1000 9
                ]
                @ shards

            let slow asked good =
                if isWeights asked then
                    { good with Pause = TimeSpan.FromMilliseconds 300.0 }
                else
                    good

            withCache (fun cache ->
                use hub = new FakeHub(files, slow)
                let watch = Stopwatch.StartNew()
                let snapshot = got (pull hub cache)
                // Four at a time need two rounds of 0.3 s, one at a time five.
                Expect.isLessThan watch.Elapsed.TotalSeconds 1.4 "at once"
                isWhole
                    hub
                    cache
                    snapshot
                    ("config.json" :: "model.safetensors.index.json" :: List.map fst shards)))

        testCase
            "as the one .gguf that is named, in its parts, and of a repository that has no other as the file"
            (fun () ->
                let files = [
                    "a-Q4_K_M.gguf", bytes 5000 1
                    "b/a-Q8_0-00001-of-00002.gguf", bytes 6000 2
                    "b/a-Q8_0-00002-of-00002.gguf", bytes 7000 3
                ]

                withCache (fun cache ->
                    use hub = new FakeHub(files)
                    let one = got (pullWith (options hub cache) "org/name")
                    Expect.equal (Path.GetFileName one.Path) "a-Q4_K_M.gguf" "the usual one"
                    isWhole hub cache one [ "a-Q4_K_M.gguf" ]
                    let parts = got (pullWith (options hub cache) "org/name:Q8_0")
                    Expect.stringEnds parts.Path "b/a-Q8_0-00001-of-00002.gguf" "the first part"
                    isWhole hub cache parts (List.map fst files |> List.tail)
                    let offline = { options hub cache with Offline = true }
                    Expect.equal
                        (got (pullWith offline "org/name:Q8_0")).Path
                        parts.Path
                        "without a network"))

        testCase "with adapters that its generation_config.json names" (fun () ->
            let named =
                "generation_config.json",
                text "{\"layerskip_adapters\": [\"adapter-2.safetensors\", \"gone.safetensors\"]}"

            let files =
                [ named; "adapter-2.safetensors", bytes 900 4 ]
                @ List.filter (fun (name, _) -> name <> fst named) folderFiles

            withCache (fun cache ->
                use hub = new FakeHub(files)
                isWhole hub cache (got (pull hub cache)) ("adapter-2.safetensors" :: needed)))

        testCase "and how far it is is told, ending with all of it" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let told = ResizeArray<HubTransfer>()

                let tell progress =
                    match progress with
                    | HubProgress.Transfer it -> told.Add it
                    | HubProgress.Remark text -> failtest text

                (Hub.pull (options hub cache) "org/name" tell CancellationToken.None).Result
                |> got
                |> ignore
                let last = told[told.Count - 1]
                Expect.equal (last.Files, last.FilesDone) (4, 4) "files"
                Expect.equal (last.Bytes, last.Fetched) (last.Total, last.Total) "bytes"

                Expect.isTrue
                    (told
                     |> Seq.pairwise
                     |> Seq.forall (fun (a, b) -> a.Bytes <= b.Bytes && a.FilesDone <= b.FilesDone))
                    "it only grows"))
    ]

[<Tests>]
let misbehaviour =
    testList "hub: a server that misbehaves" [
        testCase "a cut line is taken up where it broke" (fun () ->
            against (firstTimes 1 isWeights (fun _ good -> cutAt 100_000 good)) (fun hub cache ->
                isWhole hub cache (got (pull hub cache)) needed
                Expect.equal (bytesSent hub) [ None; Some 100_000L ] "the rest alone"))

        testCase "a line that breaks every time ends in a fault, and the next pull goes on" (fun () ->
            // What brings something is tried again: so many pieces are never enough.
            let mutable isBroken = true

            let broken asked good =
                if isBroken && isWeights asked then
                    match asked.Start with
                    | None -> cutAt 100_000 good
                    | Some _ -> cutAt 0 good
                else
                    good

            against broken (fun hub cache ->
                pull hub cache
                |> refusedWith [ "org/name"; "cut short at byte 100000 of 300000"; "try again" ]
                isAbsent hub cache
                isBroken <- false
                isWhole hub cache (got (pull hub cache)) needed
                Expect.equal (List.last (bytesSent hub)) (Some 100_000L) "from where it was"))

        testCase "a server that knows no ranges sends all of it again, once" (fun () ->
            let noRanges asked good =
                if isWeights asked && asked.Start.IsSome then
                    reply 200 [] (snd (folderFiles |> List.find (fst >> (=) "model.safetensors")))
                else
                    good

            let cut = firstTimes 1 isWeights (fun _ good -> cutAt 100_000 good)

            against (fun asked good -> good |> noRanges asked |> cut asked) (fun hub cache ->
                isWhole hub cache (got (pull hub cache)) needed
                Expect.equal (bytesSent hub) [ None; Some 100_000L ] "what came the second time is taken"))

        testCase "a model whose tokenizer alone does not come is not there" (fun () ->
            let without asked good =
                if asked.Method = "GET" && asked.Path.EndsWith "tokenizer.json" then
                    reply 500 [] [||]
                else
                    good

            against without (fun hub cache ->
                let patient = { options hub cache with Parallel = 1 }
                pullWith patient "org/name" |> refusedWith [ "org/name"; "500"; "try again" ]
                isAbsent hub cache))

        testCase "another part than was asked for is not taken for it" (fun () ->
            let shifted asked (good: Reply) =
                if isWeights asked && asked.Start.IsSome then
                    { good with Headers = [ "Content-Range", "bytes 5-299999/300000" ] }
                else
                    good

            let cut = firstTimes 1 isWeights (fun _ good -> cutAt 100_000 good)
            comesWhole (fun asked good -> good |> shifted asked |> cut asked))

        testCase "416 to what is half here begins anew" (fun () ->
            let refuse = firstTimes 1 (fun asked -> asked.Start.IsSome) (fun _ _ -> reply 416 [] [||])
            let cut = firstTimes 1 isWeights (fun _ good -> cutAt 100_000 good)
            comesWhole (fun asked good -> good |> refuse asked |> cut asked))

        testCase "a server that is slow to the point of silence is asked again" (fun () ->
            comesWhole (
                firstTimes 1 isWeights (fun _ good -> { good with Pause = TimeSpan.FromSeconds 4.0 })
            ))

        testCase "500 and 429 pass, as long as Retry-After says" (fun () ->
            let watch = Stopwatch.StartNew()
            comesWhole (firstTimes 2 (fun _ -> true) (fun _ _ -> reply 500 [] [||]))
            comesWhole (firstTimes 1 isApi (fun _ _ -> reply 429 [ "Retry-After", "1" ] [||]))
            Expect.isGreaterThan watch.Elapsed.TotalSeconds 1.0 "it waits")

        testCase "while it waits it says so, once for all the files that wait" (fun () ->
            let busy asked good =
                if asked.Method = "HEAD" then
                    reply 503 [ "Retry-After", "1" ] [||]
                else
                    good

            against busy (fun hub cache ->
                let told = ResizeArray<string>()

                let hear progress =
                    match progress with
                    | HubProgress.Remark text -> told.Add text
                    | HubProgress.Transfer _ -> ()

                let once = { options hub cache with Retries = 2 }

                (Hub.pull once "org/name" hear CancellationToken.None).GetAwaiter().GetResult()
                |> refusedWith [ "503" ]

                Expect.equal told.Count 2 (String.concat "; " told)

                for line in told do
                    for word in [ "org/name"; "503"; "waiting for 1 s" ] do
                        Expect.stringContains line word "what it waits for"))

        testCase "429 for an hour is told, not waited for" (fun () ->
            against
                (fun asked good ->
                    if isApi asked then
                        reply 429 [ "Retry-After", "3600" ] [||]
                    else
                        good)
                (fun hub cache -> pull hub cache |> refusedWith [ "429"; "3600 s" ]))

        testCase "a file shorter than the hub told is refused" (fun () ->
            let shorter asked (good: Reply) =
                if isWeights asked then
                    match asked.Start with
                    | None -> reply 200 [] good.Body[..199_999]
                    | Some start when start >= 200_000L -> reply 416 [] [||]
                    | Some start ->
                        reply
                            206
                            [ "Content-Range", $"bytes {start}-199999/200000" ]
                            good.Body[.. 199_999 - int start]
                else
                    good

            against shorter (fun hub cache ->
                pull hub cache |> refusedWith [ "model.safetensors"; "200000"; "300000" ]
                isAbsent hub cache))

        testCase "a file longer than the hub told is refused" (fun () ->
            let longer asked (good: Reply) =
                if isWeights asked then
                    { good with Body = Array.append good.Body [| 1uy |] }
                else
                    good

            against longer (fun hub cache ->
                pull hub cache |> refusedWith [ "model.safetensors"; "longer"; "300000" ]
                isAbsent hub cache))

        testCase "a file of other bytes comes again, and is refused when it does so" (fun () ->
            let damaged (good: Reply) = { good with Body = Array.map (fun b -> b ^^^ 1uy) good.Body }
            comesWhole (firstTimes 1 isWeights (fun _ good -> damaged good))

            against (fun asked good -> if isWeights asked then damaged good else good) (fun hub cache ->
                pull hub cache |> refusedWith [ "model.safetensors"; "damaged"; "hash" ]
                isAbsent hub cache))

        testCase "a small file of other bytes is refused too, by git's hash" (fun () ->
            let isConfig asked = asked.Method = "GET" && asked.Path.EndsWith "config.json"

            against
                (fun asked good ->
                    if isConfig asked then
                        { good with Body = text "{\"model_type\": \"lllma\"}" }
                    else
                        good)
                (fun hub cache ->
                    pull hub cache |> refusedWith [ "config.json" ]
                    isAbsent hub cache))

        testCase "a file that changes meanwhile is refused" (fun () ->
            let isSmall asked = asked.Method = "GET" && asked.Path.EndsWith "tokenizer.json"

            let changed (good: Reply) = {
                good with
                    Headers = [ "ETag", "\"0000000000000000000000000000000000000000\"" ]
                    Body = text "[]"
            }

            against (fun asked good -> if isSmall asked then changed good else good) (fun hub cache ->
                pull hub cache |> refusedWith [ "tokenizer.json"; "changes" ]
                isAbsent hub cache))

        testCase "half a file of another ETag is not gone on with" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let blobs = Directory.CreateDirectory(Path.Combine(hub.FolderIn cache, "blobs")).FullName
                let older = Path.Combine(blobs, sha256 (text "older") + ".incomplete")
                File.WriteAllBytes(older, bytes 1000 9)
                pull hub cache |> got |> ignore
                isSound hub cache
                Expect.equal (bytesSent hub) [ None ] "from its first byte"))

        testCase "half a file of wrong bytes is found out, and comes anew" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let blobs = Directory.CreateDirectory(Path.Combine(hub.FolderIn cache, "blobs")).FullName
                let half = Path.Combine(blobs, hub.EtagOf "model.safetensors" + ".incomplete")
                File.WriteAllBytes(half, bytes 1000 9)
                isWhole hub cache (got (pull hub cache)) needed
                Expect.equal (bytesSent hub) [ Some 1000L; None ] "its rest, and then all of it"))

        testCase "names that lead out of the cache are not followed" (fun () ->
            against (tellingOfWeights "X-Linked-Etag" "\"../../evil\"") (fun hub cache ->
                pull hub cache |> refusedWith [ "ETag" ]
                isAbsent hub cache))

        testCase "what is no answer of a hub is told in a line" (fun () ->
            for body in
                [
                    ""
                    "<html>"
                    "[]"
                    "{}"
                    "{\"sha\": \"../x\", \"siblings\": []}"
                    "{\"sha\": 1}"
                ] do
                against
                    (fun asked good -> if isApi asked then reply 200 [] (text body) else good)
                    (fun hub cache ->
                        pull hub cache |> refusedWith [ "org/name" ]
                        Expect.isFalse (Directory.Exists(hub.FolderIn cache)) "nothing is kept"))

        testCase "a circle of redirects ends" (fun () ->
            against
                (fun asked good ->
                    if isApi asked then
                        reply 307 [ "Location", asked.Path ] [||]
                    else
                        good)
                (fun hub cache -> pull hub cache |> refusedWith [ "circle" ]))

        testPropertyWithConfig
            { FsCheckConfig.defaultConfig with maxTest = 40 }
            "whatever happens on the way, what looks whole is, and in the end all comes"
            (fun (mishaps: (byte * uint16) list) ->
                let left = Collections.Concurrent.ConcurrentQueue mishaps

                let misbehave (asked: Asked) (good: Reply) =
                    match left.TryDequeue() with
                    | false, _ -> good
                    | true, (kind, place) ->
                        match kind % 8uy with
                        | 0uy -> cutAt (int place * 5) good
                        | 1uy -> reply 503 [] [||]
                        | 2uy -> reply 416 [] [||]
                        | 3uy -> { good with Body = Array.map (fun b -> b + 1uy) good.Body }
                        | 4uy -> { good with Body = good.Body[.. good.Body.Length / 2] }
                        | 5uy -> { good with Body = Array.append good.Body good.Body }
                        | 6uy when asked.Start.IsSome -> { good with Status = 200 }
                        | _ -> { good with Told = Some(good.Body.Length + int place); Cut = None }

                withCache (fun cache ->
                    use hub = new FakeHub(folderFiles, misbehave)

                    // Each pull takes at least one of them.
                    let rec untilWhole count =
                        match pull hub cache with
                        | Ok snapshot -> isWhole hub cache snapshot needed
                        | Error _ when count > 0 ->
                            isSound hub cache
                            untilWhole (count - 1)
                        | Error faults -> failtest (LayerSkipError.summary faults)

                    untilWhole (mishaps.Length + 1)))
    ]

[<Tests>]
let refusals =
    testList "hub: who may have a model" [
        testCase "the token goes to the hub and to no other host" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let options = { options hub cache with Token = Some "hf_secret" }
                isWhole hub cache (got (pullWith options "org/name")) needed
                let tokens (server: HubServer) = server.Asked |> List.map _.Token |> List.distinct
                Expect.equal (tokens hub.Hub) [ Some "Bearer hf_secret" ] "the hub"
                Expect.equal (tokens hub.Store) [ None ] "the store"))

        testCase "a refusal is one line that says what to do" (fun () ->
            let gated = [ "X-Error-Code", "GatedRepo" ]

            for token, status, headers, words in
                [
                    None, 401, gated, [ "agree to their terms"; "/org/name"; "HF_TOKEN" ]
                    Some "hf_secret", 403, gated, [ "no access"; "/org/name" ]
                    None, 401, [ "X-Error-Code", "RepoNotFound" ], [ "no such model"; "HF_TOKEN" ]
                    None, 404, [], [ "no such model"; "correct the name" ]
                    None, 404, [ "X-Error-Code", "RevisionNotFound" ], [ "revision \"main\"" ]
                    Some "hf_secret",
                    401,
                    [ "X-Error-Message", "Invalid credentials" ],
                    [ "token"; "Invalid credentials" ]
                    Some "hf_secret", 403, [ "X-Error-Message", "Nope" ], [ "refuses access"; "Nope" ]
                    None, 418, [], [ "418" ]
                ] do
                against
                    (fun asked good -> if isApi asked then reply status headers [||] else good)
                    (fun hub cache ->
                        let result = pullWith { options hub cache with Token = token } "org/name"
                        result |> refusedWith ("org/name: " :: words)

                        match result with
                        | Error [ LayerSkipError.NotOnHub _ as fault ] ->
                            Expect.isFalse (LayerSkipError.isFailure fault) "bad input"
                            Expect.isFalse
                                ((LayerSkipError.message fault).Contains "secret")
                                "no token is told"
                        | other -> failtest $"%A{other}"

                        Expect.equal hub.Hub.Asked.Length 1 "it is not asked again"
                        Expect.isFalse (Directory.Exists(hub.FolderIn cache)) "nothing is kept"))

        testCase "a file that is gated though its listing is not is told the same" (fun () ->
            let gate asked good =
                if asked.Method = "HEAD" then
                    reply 403 [ "X-Error-Code", "GatedRepo" ] [||]
                else
                    good

            against gate (fun hub cache ->
                pullWith { options hub cache with Token = Some "t" } "org/name"
                |> refusedWith [ "no access" ]
                isAbsent hub cache))

        testCase "a model without weights that are read here is refused before anything comes" (fun () ->
            withCache (fun cache ->
                use hub = new FakeHub([ "config.json", text "{}"; "pytorch_model.bin", bytes 10 1 ])
                pull hub cache |> refusedWith [ "org/name"; "pickles"; ".safetensors" ]))

        testCase "a hub that is not there is a failure, without a copy" (fun () ->
            withCache (fun cache ->
                let url = using (new FakeHub(folderFiles)) _.Hub.Url
                use hub = new FakeHub(folderFiles)
                let result = pullWith { options hub cache with Endpoint = url } "org/name"
                result |> refusedWith [ "127.0.0.1 cannot be reached" ]
                Expect.isTrue (Check.faults result |> List.forall LayerSkipError.isFailure) "exit code 1"))

        testCase "and with one a remark" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let first = got (pull hub cache)
                let url = using (new FakeHub(folderFiles)) _.Hub.Url
                let remarks = ResizeArray<string>()

                let tell progress =
                    match progress with
                    | HubProgress.Remark text -> remarks.Add text
                    | HubProgress.Transfer _ -> ()

                let options = { options hub cache with Endpoint = url }
                let again = (Hub.pull options "org/name" tell CancellationToken.None).Result |> got
                Expect.equal again.Path first.Path "the copy"
                Expect.equal remarks.Count 1 "one remark"
                Expect.stringContains remarks[0] "ccccccc" "which copy"))

        testCase "offline, what is not whole in the cache is not there" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let offline = { options hub cache with Offline = true }
                pullWith offline "org/name" |> refusedWith [ "org/name"; "HF_HUB_OFFLINE"; cache ]
                Expect.isEmpty hub.Hub.Asked "nobody was asked"
                let first = got (pull hub cache)
                let asked = hub.Hub.Asked.Length
                Expect.equal (got (pullWith offline "org/name")).Path first.Path "now it is"
                Expect.equal hub.Hub.Asked.Length asked "nobody was asked"
                File.Delete(Path.Combine(hub.FolderIn cache, "blobs", hub.EtagOf "model.safetensors"))
                pullWith offline "org/name" |> refusedWith [ "not whole" ]
                isWhole hub cache (got (pull hub cache)) needed))

        testCase "a cache that Python's huggingface_hub laid out is found, and only the rest comes" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let folder = hub.FolderIn cache
                let put (parts: string list) (content: byte[]) =
                    let path = Path.Combine(Array.ofList (folder :: parts))
                    Directory.CreateDirectory(Path.GetDirectoryName path) |> ignore
                    File.WriteAllBytes(path, content)

                // As its documentation shows it.
                for name, content in folderFiles do
                    if name <> "tokenizer.json" then
                        put [ "blobs"; hub.EtagOf name ] content
                        let link = Path.Combine(folder, "snapshots", commit, name)
                        Directory.CreateDirectory(Path.GetDirectoryName link) |> ignore
                        File.CreateSymbolicLink(link, $"../../blobs/{hub.EtagOf name}") |> ignore

                put [ "refs"; "main" ] (text commit)
                put [ ".no_exist"; commit; "chat_template.jinja" ] [||]
                put [ "trees"; $"{commit}.json" ] (text "{}")
                let offline = got (pullWith { options hub cache with Offline = true } "org/name")
                Expect.equal offline.Path (Path.Combine(folder, "snapshots", commit)) "without a network"
                let whole = got (pull hub cache)
                Expect.equal whole.Fetched 2L "the tokenizer alone came"
                Expect.isEmpty hub.Store.Asked "no weights"))

        testCase "a disk without room is told before anything large comes" (fun () ->
            against (tellingOfWeights "X-Linked-Size" "9000000000000000") (fun hub cache ->
                pull hub cache |> refusedWith [ "cannot be written"; "9000000.00 GB"; "make room" ]
                Expect.isEmpty hub.Store.Asked "nothing came"))

        testCase "a cache that cannot be written is told in a line" (fun () ->
            FileSupport.withFolder (fun folder ->
                let file = Path.Combine(folder, "file")
                File.WriteAllText(file, "")
                use hub = new FakeHub(folderFiles)
                pullWith { options hub (Path.Combine(file, "hub")) with Parallel = 1 } "org/name"
                |> refusedWith [ "cannot be written" ]))
    ]

[<Tests>]
let together =
    testList "hub: several at once, and none to the end" [
        testCase "pulls of one model at once bring each file once" (fun () ->
            let slow asked good =
                if isWeights asked then
                    { good with Pause = TimeSpan.FromMilliseconds 400.0 }
                else
                    good

            against slow (fun hub cache ->
                let remarks = Collections.Concurrent.ConcurrentBag<string>()

                let tell progress =
                    match progress with
                    | HubProgress.Remark text -> remarks.Add text
                    | HubProgress.Transfer _ -> ()

                let one _ = Hub.pull (options hub cache) "org/name" tell CancellationToken.None
                let all = (Array.init 3 one |> Task.WhenAll).Result

                for result in all do
                    isWhole hub cache (got result) needed

                Expect.equal hub.Store.Asked.Length 1 "the weights came once"
                Expect.exists
                    remarks
                    (fun remark -> remark.Contains "waiting")
                    "the others say why they wait"))

        testCase "a lock that another program holds, as Python's does (flock), is waited for" (fun () ->
            against (fun _ good -> good) (fun hub cache ->
                let locks = Path.Combine(cache, ".locks", "models--org--name")
                Directory.CreateDirectory locks |> ignore
                let held = Path.Combine(locks, hub.EtagOf "model.safetensors" + ".lock")
                use holder = Process.Start("flock", [ held; "sleep"; "1.5" ])
                let until = Stopwatch.StartNew()

                while not (File.Exists held) && until.Elapsed.TotalSeconds < 5.0 do
                    Thread.Sleep 20

                Thread.Sleep 200
                let watch = Stopwatch.StartNew()
                isWhole hub cache (got (pull hub cache)) needed
                Expect.isGreaterThan watch.Elapsed.TotalSeconds 0.5 "it waits"
                holder.WaitForExit()))

        testCase "a cancelled pull leaves what has come, and nothing that looks whole" (fun () ->
            let cut = firstTimes 1 isWeights (fun _ good -> cutAt 100_000 good)

            // The half that is here, and then a server that is silent.
            let mutable isSilent = true

            let misbehave asked good =
                if isSilent && isWeights asked && asked.Start.IsSome then
                    { good with Pause = TimeSpan.FromSeconds 30.0 }
                else
                    cut asked good

            against misbehave (fun hub cache ->
                use cancel = new CancellationTokenSource()
                let patient = { options hub cache with Timeout = TimeSpan.FromSeconds 60.0 }
                let pulling = Hub.pull patient "org/name" ignore cancel.Token

                let half =
                    Path.Combine(
                        hub.FolderIn cache,
                        "blobs",
                        hub.EtagOf "model.safetensors" + ".incomplete"
                    )
                let until = Stopwatch.StartNew()

                while HubCache.length half <> Some 100_000L && until.Elapsed.TotalSeconds < 20.0 do
                    Thread.Sleep 20

                cancel.Cancel()

                let isCancelled =
                    try
                        pulling.GetAwaiter().GetResult() |> ignore
                        false
                    with :? OperationCanceledException ->
                        true

                Expect.isTrue isCancelled "cancelled"

                isAbsent hub cache
                Expect.equal (HubCache.length half) (Some 100_000L) "the half stays"
                isSilent <- false
                isWhole hub cache (got (pull hub cache)) needed
                Expect.equal (List.last (bytesSent hub)) (Some 100_000L) "its rest alone comes"))
    ]
