module LayerSkip.Tests.DraftingCliTests

open System.IO
open System.Text.Json
open Expecto
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

/// Options of every way to draft, as they are typed.
let private ways = [
    "--policy static"
    "--policy auto"
    "--policy del"
    "--drafter exit"
    "--drafter lookup"
    "--drafter cascade"
    "--drafter layers --layers-kept 1,3"
    "--layers-kept 1,3-4 --stop-rule adaedl"
    "--policy auto --drafter lookup"
    "--policy auto --drafter exit --draft-length 2"
    "--policy auto --exit-layer 2"
    "--policy del --draft-length 3"
    "--stop-rule never"
    "--stop-rule confidence:0.1"
    "--stop-rule draft-verify"
    "--stop-rule adaedl"
    "--stop-rule del"
    "--stop-rule marginal"
    "--drafter cascade --stop-rule marginal --draft-vocabulary 8"
    "--draft-vocabulary all --exit-layer 1"
    "--draft-vocabulary auto --exit-layer 1"
]

let private text (e: JsonElement) (name: string) = (e.GetProperty name).GetString()

[<Tests>]
let tests =
    testSequenced
    <| testList "command line: drafting" [
        testCase "whatever drafts, the text is the whole model's, and --json says what did" (fun () ->
            withModel (fun folder ->
                let common = ids @ count 30 @ [ "--ignore-eos" ]
                let plain = generate folder (common @ [ "--strategy"; "autoregressive" ])
                Expect.equal (plain.GetProperty "policy").ValueKind JsonValueKind.Null "nothing drafts"

                for way in ways do
                    let made = generate folder (common @ typed way)
                    Expect.equal (tokenIds made) (tokenIds plain) way
                    Expect.equal (text made "strategy") "self-speculative" way

                    for word, field in
                        [ "--policy ", "policy"; "--drafter ", "drafter"; "--stop-rule ", "stop_rule" ] do
                        match (way + " ").IndexOf word with
                        | -1 -> ()
                        | at ->
                            let value = (way + " ").Substring(at + word.Length).Split(' ')[0]
                            Expect.equal (text made field) value way))

        testCase "sources, policy time and what drafted are told to people too" (fun () ->
            withModel (fun folder ->
                let told way =
                    (cli (
                        [ "generate"; "--model"; folder ] @ ids @ count 80 @ [ "--ignore-eos" ] @ typed way
                    ))
                        .Error

                Expect.stringContains (told "--drafter lookup") "lookup kept " "by source"
                Expect.stringContains (told "--drafter lookup") "drafter lookup" "who drafts"
                Expect.stringContains (told "--policy auto") "policy auto, drafter cascade" "who decides"
                Expect.stringContains (told "--policy auto") " of the time" "and its time"
                let fixed' = told "--exit-layer 2"
                Expect.stringContains fixed' "exit layer 2, draft length" "as always"
                Expect.isFalse (fixed'.Contains "policy") "without a policy to speak of"))

        testCase "what makes no sense is refused in a line" (fun () ->
            withModel (fun folder ->
                let refused words line =
                    refuses words ([ "generate"; "--model"; folder ] @ ids @ typed line)
                refused [ "--policy is auto"; "static" ] "--policy auto --drafter layers"
                refused [ "--policy is del"; "exits" ] "--policy del --drafter cascade"
                refused [ "--stop-rule is del"; "policy auto" ] "--policy auto --stop-rule del"
                refused [ "--stop-rule is del"; "policy del" ] "--policy del --stop-rule del"
                refused [ "--stop-rule is never"; "lookup" ] "--drafter lookup --stop-rule never"
                refused [ "--exit-layer is 2"; "policy del" ] "--policy del --exit-layer 2"
                refused [ "--exit-layer is 2"; "lookup" ] "--drafter lookup --exit-layer 2"
                refused [ "--draft-vocabulary is 8"; "lookup" ] "--drafter lookup --draft-vocabulary 8"
                refused [ "--layers-kept is 1-2"; "drafter layers" ] "--drafter exit --layers-kept 1-2"
                refused [ "adapter"; "train" ] "--drafter adapter"
                refused [ "recommends no layers"; "layers-kept" ] "--drafter layers"
                refused [ "--layers-kept"; "layer 1" ] "--layers-kept 2"
                refused [ "--layers-kept"; "layer 5" ] "--layers-kept 1,5"
                refused [ "--layers-kept"; "1-10,15,30" ] "--layers-kept x"
                refused [ "--exit-layer"; "1 to 3" ] "--policy auto --exit-layer 4"
                refused [ "--draft-length is 0" ] "--policy auto --draft-length 0"
                refused [ "--stop-rule is confidence:2"; "at most 1" ] "--stop-rule confidence:2"
                refused [ "--draft-vocabulary is 0" ] "--draft-vocabulary 0"
                refused [ "no-such-file" ] "--draft-vocabulary no-such-file"
                refused [ "--drafter"; "cascade" ] "--drafter draft"
                refused [ "--policy"; "static|auto|del" ] "--policy best"

                for strategy in [ "autoregressive"; "early-exit" ] do
                    for option in
                        [
                            "--drafter lookup"
                            "--policy auto"
                            "--stop-rule del"
                            "--draft-vocabulary 8"
                            "--layers-kept 1-2"
                        ] do
                        refused
                            [ option.Split(' ')[0]; strategy; "exclude" ]
                            $"--strategy {strategy} {option}"

                refused
                    [
                        "--policy and --strategy early-exit exclude"
                        "--draft-length and --strategy early-exit exclude"
                        "--top-k is -1"
                    ]
                    "--strategy early-exit --exit-layer 2 --draft-length 2 --policy auto --top-k -1"))

        testCase "certify runs every test with the drafting that is named" (fun () ->
            withModel (fun folder ->
                let certified line =
                    json (
                        [ "certify"; "--model"; folder; "--dtype"; "f32"; "--max-new-tokens"; "8" ]
                        @ typed line
                    )

                let checks (report: JsonElement) name =
                    (report.GetProperty "tests").EnumerateArray()
                    |> Seq.find (fun test -> text test "name" = name)
                    |> fun test -> (test.GetProperty "checks").GetInt32()

                let plain = certified "--draft-lengths 2"

                for line in
                    [
                        "--policy auto"
                        "--policy del"
                        "--drafter lookup"
                        "--stop-rule marginal --exit-layers 1"
                        "--layers-kept 1,3"
                    ] do
                    let report = certified (line + " --draft-lengths 2")
                    Expect.equal ((report.GetProperty "violation").GetInt32()) 0 line

                    for name in [ "T1"; "T2"; "T3"; "T5" ] do
                        Expect.isGreaterThan (checks report name) 0 $"{line}: {name}"

                    let exits =
                        if line.Contains "--exit-layers" then 1
                        elif line = "--policy auto" then 3
                        else 0

                    let laws (exits: int) = 3 * exits + 2
                    Expect.equal
                        (checks report "T4"
                         - (if line.Contains "--exit-layers" then
                                laws 1
                            else
                                checks plain "T4"))
                        (max 1 exits)
                        $"{line}: T4 is live, for each way"

                refuses
                    [ "--stop-rule" ]
                    ([ "certify"; "--model"; folder ] @ typed "--policy auto --stop-rule del")
                refuses
                    [ "--exit-layer is 2"; "lookup" ]
                    ([ "certify"; "--model"; folder ] @ typed "--drafter lookup --exit-layers 2")
                refuses [ "--stop-rule" ] ([ "certify"; "--model"; folder ] @ typed "--stop-rule x")))

        testCase
            "bench times the drafting that is named beside plain decoding, with means of what varies"
            (fun () ->
                let shape = "hidden=32,layers=6,heads=4,kv-heads=2,intermediate=64,vocab=96"

                let bench line =
                    json (
                        [ "bench"; "--shape"; shape; "--runs"; "2"; "--max-new-tokens"; "40" ] @ typed line
                    )

                for line in [ "--policy auto"; "--drafter lookup" ] do
                    let report = bench line
                    Expect.isTrue ((report.GetProperty "same_text").GetBoolean()) line
                    Expect.isGreaterThan ((report.GetProperty "ratio").GetDouble()) 0.0 line
                    let own = report.GetProperty "self_speculative"
                    let number (name: string) = (own.GetProperty name).GetDouble()
                    let sources = (own.GetProperty "stats").GetProperty "sources"
                    let drafts = [
                        for source in sources.EnumerateArray() ->
                            (source.GetProperty "draft_tokens").GetInt32()
                    ]
                    Expect.equal
                        (List.sum drafts)
                        (((own.GetProperty "stats").GetProperty "num_draft_tokens").GetInt32())
                        $"{line}: sources are all drafts"
                    Expect.isGreaterThanOrEqual (number "policy_share") 0.0 line
                    Expect.isGreaterThan (number "predicted_ms_per_token") 0.0 line
                    Expect.isGreaterThanOrEqual (number "draft_length") 0.0 line

                    if line.Contains "lookup" then
                        Expect.equal
                            (own.GetProperty "exit_layer").ValueKind
                            JsonValueKind.Null
                            "lookup has no exit"

                let own =
                    (bench "--stop-rule confidence:0.5 --exit-layer 2 --draft-length 3").GetProperty
                        "self_speculative"
                Expect.equal ((own.GetProperty "exit_layer").GetInt32()) 2 "a rule leaves E"
                Expect.equal (text own "stop_rule") "confidence:0.5" "and is named"

                for line in [ "--policy auto --accept-rate 0.5"; "--drafter lookup --accept-rate 0.5" ] do
                    refuses [ "--accept-rate"; "exit" ] ([ "bench"; "--shape"; shape ] @ typed line))

        testCase "a cache of pass times is used where there is a place for it, and never a fault" (fun () ->
            withModel (fun folder ->
                withFolder (fun cache ->
                    let run variables =
                        shell
                            cache
                            $"{variables} layerskip generate --model {folder} --prompt-ids 3,4 --max-new-tokens 8 --policy auto --json"

                    let files () = Directory.GetFiles(cache, "*", SearchOption.AllDirectories)

                    for variables in
                        [
                            "LAYERSKIP_CACHE=off"
                            "HOME= XDG_CACHE_HOME="
                            "LAYERSKIP_CACHE= XDG_CACHE_HOME=/proc/none"
                        ] do
                        let outcome = run variables
                        Expect.equal outcome.Code 0 $"{variables}: {outcome.Error}"
                        Expect.isEmpty (files ()) variables

                    // Times of a busy machine are not kept: then the next process tries again.
                    let kept () =
                        let outcome = run $"LAYERSKIP_CACHE= XDG_CACHE_HOME={cache}"
                        Expect.equal outcome.Code 0 outcome.Error
                        (files ()).Length

                    match Seq.init 10 (fun _ -> kept ()) |> Seq.tryFind (fun files -> files > 0) with
                    | Some files -> Expect.equal files 1 "one small file"
                    | None -> skiptest "this machine was busy ten times")))

        testCase
            "pass times lie in the folder that is named, and one that cannot hold them is a remark"
            (fun () ->
                withModel (fun folder ->
                    withFolder (fun own ->
                        let run way variables =
                            shell
                                own
                                $"{variables} layerskip generate --model {folder} --prompt-ids 3,4 --max-new-tokens 8 {way} --json"

                        let files () = Directory.GetFiles(own, "passes-*", SearchOption.AllDirectories)
                        let auto = run "--policy auto"

                        let outcome = auto "LAYERSKIP_CACHE=kept/here XDG_CACHE_HOME=/proc/none"
                        Expect.equal
                            (outcome.Code, outcome.Error.Contains "LAYERSKIP_CACHE")
                            (0, false)
                            outcome.Error
                        Expect.isTrue
                            (Directory.Exists(Path.Combine(own, "kept", "here")))
                            "the folder is made"
                        // What was measured beside other work is not kept.
                        Expect.isLessThanOrEqual (files ()).Length 1 "one small file"

                        File.WriteAllText(Path.Combine(own, "file"), "mine")

                        for bad in [ "file"; "/proc/none" ] do
                            let outcome = auto $"LAYERSKIP_CACHE={bad}"
                            Expect.equal outcome.Code 0 outcome.Error
                            let told =
                                outcome.Error.Split '\n' |> Array.filter _.Contains("LAYERSKIP_CACHE")
                            Expect.equal told.Length 1 "one line"
                            Expect.stringContains
                                told[0]
                                $"LAYERSKIP_CACHE is {bad}, where no file can be written"
                                bad

                            let other = run "--policy static --exit-layer 2" $"LAYERSKIP_CACHE={bad}"
                            Expect.isFalse
                                (other.Error.Contains "LAYERSKIP_CACHE")
                                "of no account where nothing is timed"

                        Expect.equal (File.ReadAllText(Path.Combine(own, "file"))) "mine" "as it was")))
    ]
