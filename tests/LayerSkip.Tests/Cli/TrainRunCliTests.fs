/// Runs of the command that are stopped, crossed, cut short and gone on with.
module LayerSkip.Tests.TrainRunCliTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

let private train (folder: string) (options: string list) =
    cli (command folder @ [ "--batch-size=2"; "--sequence-length=8" ] @ options)

let private resume (folder: string) (options: string list) =
    cli ([ "train"; "--resume"; Path.Combine(folder, "run") ] @ options)

let private done' (outcome: Outcome) = Expect.equal outcome.Code 0 outcome.Error

/// The one line that says what is wrong.
let private fault (outcome: Outcome) (code: int) : string =
    let said = outcome.Error.Split '\n' |> Array.filter _.StartsWith("layerskip:")
    Expect.equal (outcome.Code, said.Length) (code, 1) outcome.Error
    said[0]

let private refused (outcome: Outcome) (words: string) =
    Expect.stringContains (fault outcome 2) words "helpful words"

/// The steps of a run's log, each line of which must be whole.
let private loggedSteps (folder: string) = [
    for line in File.ReadLines(Path.Combine(folder, "run", "log.jsonl")) do
        let root = JsonDocument.Parse(line).RootElement

        if fst (root.TryGetProperty "loss") then
            (root.GetProperty "step").GetInt32()
]

let private options =
    testList "options" [
        testCase "a resume refuses what it cannot honour, and takes what is no part of the run" (fun () ->
            withData (fun folder ->
                train folder [ "--steps=4" ] |> done'

                for own in [ "--seed=0"; "--dtype=f32"; "--model=" + Path.Combine(folder, "model") ] do
                    refused (resume folder [ own ]) "leave --model, --dtype and --seed out"

                for other in [ "--batch-size=2"; "--keep=3"; "--recompute"; "--steps=9" ] do
                    refused (resume folder [ other ]) "change some of them on purpose with --extend"

                refused (resume folder [ "--extend" ]) "--extend changes nothing"
                refused (resume folder [ "--extend"; "--batch-size=4" ]) "with --extend"
                refused (train folder [ "--extend" ]) "name its folder with --resume"
                resume folder [ "--threads=1" ] |> done'))

        testCase "--extend goes on to more steps, for good" (fun () ->
            withData (fun folder ->
                train folder [ "--steps=4" ] |> done'
                let longer = [ "--extend"; "--steps=9"; "--learning-rate=1e-4"; "--save-every=1" ]
                resume folder longer |> done'
                Expect.equal (loggedSteps folder) [ 1..9 ] "five more"
                let state = Path.Combine(folder, "run", "checkpoint-9", "training_state.json")
                let options = JsonDocument.Parse(File.ReadAllText state).RootElement.GetProperty "options"
                Expect.equal ((options.GetProperty "learning_rate").GetDouble()) 1e-4 "the run's own"
                refused (resume folder [ "--extend"; "--steps=8" ]) "more than the 9"))

        testCase "the log says what spikes do, and how much is graded, is checked" (fun () ->
            withData (fun folder ->
                refused (train folder [ "--validation-tokens=0" ]) "--validation-tokens is 0"
                refused (train folder [ "--on-spike=jump" ]) "--on-spike"
                train folder [ "--steps=2"; "--on-spike=skip" ] |> done'
                let log = File.ReadLines(Path.Combine(folder, "run", "log.jsonl")) |> Seq.head
                Expect.stringContains log "\"on_spike\":\"skip\"" "the options"))

        testCase "checkpoints every 0 steps are one, where the run ends or is stopped" (fun () ->
            for recipe in [ ""; "--recipe=adapter --exit-layer=2" ] do
                withData (fun folder ->
                    let checkpoints () =
                        Directory.GetDirectories(Path.Combine(folder, "run"), "checkpoint-*")
                        |> Array.map Path.GetFileName

                    train folder (typed $"{recipe} --steps=4 --save-every=0") |> done'
                    Expect.equal (checkpoints ()) [| "checkpoint-4" |] "the last one"

                    // The rule stays the run's.
                    resume folder (typed "--extend --steps=9") |> done'
                    Expect.contains (checkpoints ()) "checkpoint-9" "gone on"))

        testCase "a run that explodes says how to go on from its latest checkpoint, and that works" (fun () ->
            withData (fun folder ->
                train folder [ "--steps=60"; "--save-every=10" ] |> done'
                let wild = [
                    "--extend"
                    "--steps=200"
                    "--learning-rate=50"
                    "--clip-norm=0"
                    "--rate-floor=1"
                ]
                let said = fault (resume folder wild) 1
                Expect.stringContains said "go on from " "from where"
                Expect.stringContains said "--extend --on-spike skip`" "the one way"
                let run = Path.Combine(folder, "run")
                Expect.stringContains
                    said
                    $"`layerskip train --resume {run} --extend --learning-rate 25`"
                    "the other"
                // The same again ends the same way; another rate does not.
                Expect.equal (fault (resume folder []) 1) said "nothing has changed"
                resume folder [ "--extend"; "--learning-rate=0.001" ] |> done'))

        testCase "a step without anything to learn has no loss of 0" (fun () ->
            withData (fun folder ->
                TokenFile.write (Path.Combine(folder, "data.tokens")) [
                    for i in 0..9 -> [| for j in 0..11 -> if i < 9 && j < 10 then ~~~j else j |]
                ]
                |> Check.getOrRaise
                |> ignore

                let made =
                    train folder [ "--layout=each"; "--valid-share=0"; "--steps=5"; "--validate-every=0" ]
                done' made
                Expect.stringContains made.Error "9 of 10 texts have nothing to learn" "said before"
                Expect.stringContains made.Error "nothing to learn, " "and at a step"
                Expect.isFalse (made.Error.Contains "0.000") made.Error
                Expect.stringContains made.Out "4 steps had nothing to learn" "and in the end"))
    ]

/// As many steps as there is time for.
let private endless = "--steps=100000 --batch-size=1 --sequence-length=8 --validate-every=0"

let private processes =
    testSequenced
    <| testList "processes" [
        testCase
            "of two processes on one folder the second is refused, until the first is gone, however it went"
            (fun () ->
                withData (fun folder ->
                    let outcome =
                        shell
                            folder
                            $"layerskip train --model model --data data.tokens --output run {endless} --save-every=5 2>/dev/null & job=$!
                          for i in $(seq 600); do test -e run/checkpoint-5 && break; sleep 0.05; done
                          (layerskip train --resume run) 2>error; echo resume $?
                          kill -9 $job; wait $job 2>/dev/null
                          timeout -s INT 20 dotnet $PROGRAM train --resume run 2>after & job=$!
                          sleep 6; kill -INT $job; wait $job; echo after $?
                          cat error >&2"

                    Expect.stringContains outcome.Out "resume 2" outcome.Error
                    Expect.stringContains outcome.Out "after 130" outcome.Error
                    refused { outcome with Code = 2 } "another process is training in this folder"
                    let steps = loggedSteps folder
                    Expect.equal steps [ 1 .. steps.Length ] "each step once, in order"))

        // .NET would not start: it maps its own code through a file.
        let limited = "export DOTNET_EnableWriteXorExecute=0; ulimit -f"

        for name, blocks, before in
            [ "the data", 2, ""; "the log", 16, ""; "a checkpoint", 8, "--save-every=3" ] do
            testCase
                $"a file limit met by {name}: a line, exit code 1, and a run that goes on without it"
                (fun () ->
                    withData (fun folder ->
                        let outcome =
                            shell
                                folder
                                $"({limited} {blocks}; layerskip train --model model --data data.tokens --output run {endless} {before}) >/dev/null"

                        Expect.stringContains (fault outcome 1) "cannot be written" "why"
                        Expect.isEmpty
                            (Directory.GetFileSystemEntries(Path.Combine(folder, "run"), "*.tmp"))
                            "no junk"
                        Expect.equal (train folder [ "--steps=3" ]).Code 0 "the same folder"
                        Expect.equal (loggedSteps folder) [ 1..3 ] "its log"))

        testCase "a file limit met by a run that goes on: it goes on from there without it" (fun () ->
            withData (fun folder ->
                train folder [ "--steps=8"; "--save-every=2"; "--keep=9" ] |> done'

                for step in [ 6; 8 ] do
                    Directory.Delete(Path.Combine(folder, "run", $"checkpoint-{step}"), true)

                let outcome = shell folder $"({limited} 8; layerskip train --resume run) >/dev/null"
                let said = fault outcome 1
                Expect.stringContains said "checkpoint-4" "from where"
                resume folder [] |> done'
                Expect.equal (loggedSteps folder) [ 1..8 ] "each step once"))
    ]

[<Tests>]
let tests = testList "command line: training runs" [ options; processes ]
