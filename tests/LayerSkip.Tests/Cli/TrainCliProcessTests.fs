/// Runs as processes that are killed, stopped, and started by mpirun.
module LayerSkip.Tests.TrainCliProcessTests

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport
open LayerSkip.Tests.TrainCliSupport

/// Steps that take a while: as many as fit before a signal.
let private long = [
    "--steps=60"
    "--batch-size=2"
    "--sequence-length=8"
    "--save-every=5"
    "--keep=100"
    "--validate-every=0"
    "--dropout=0.3"
]

let private processes =
    testSequenced
    <| testList "processes" [
        testCase "60 steps are 25, kill -9 and the rest, bit for bit" (fun () ->
            withData (fun folder ->
                let options = String.concat " " long
                let train = $"train --model model --data data.tokens {options}"

                let outcome =
                    shell
                        folder
                        $"(layerskip {train} --output straight) 2>/dev/null >/dev/null || exit 3
                          layerskip {train} --output parted 2>/dev/null >/dev/null & job=$!
                          for i in $(seq 600); do test -e parted/checkpoint-25 && break; sleep 0.02; done
                          kill -9 $job; wait $job 2>/dev/null
                          ls -d parted/checkpoint-60 2>/dev/null && echo 'not killed in time'
                          (layerskip train --resume parted) 2>error; code=$?; cat error >&2; exit $code"

                Expect.equal outcome.Code 0 outcome.Error
                Expect.stringContains outcome.Out "60 of 60 steps" "all of them"

                for file in [ "model.safetensors"; "optimizer.safetensors" ] do
                    let read run = File.ReadAllBytes(Path.Combine(folder, run, "checkpoint-60", file))
                    Expect.equal (read "parted") (read "straight") file

                let losses run =
                    File.ReadAllLines(Path.Combine(folder, run, "log.jsonl")) |> Array.choose lossOf

                Expect.equal (losses "parted") (losses "straight") "the log forgets what was lost"
                Expect.isEmpty
                    (Directory.GetDirectories(Path.Combine(folder, "parted"), "*.tmp"))
                    "nothing unfinished"))

        for name, code in [ "INT", 130; "TERM", 143 ] do
            testCase
                $"SIG{name} saves, says how to go on, and what goes on ends as if nothing had been"
                (fun () ->
                    withData (fun folder ->
                        let outcome =
                            shell
                                folder
                                $"set -m
                              layerskip train --model model --data data.tokens --output run --steps=100000 --batch-size=1 --sequence-length=8 --save-every=100000 2>error & job=$!
                              for i in $(seq 600); do test -s run/log.jsonl && break; sleep 0.05; done
                              kill -{name} $job; wait $job; code=$?; cat error >&2; exit $code"

                        Expect.equal outcome.Code code outcome.Error
                        let said = outcome.Error.Split('\n') |> Array.filter _.StartsWith("layerskip:")
                        Expect.equal said.Length 1 outcome.Error
                        Expect.stringContains said[0] "go on with `layerskip train --resume run`" "how"
                        let checkpoints = TrainingCheckpoint.all (Path.Combine(folder, "run"))
                        Expect.equal checkpoints.Length 1 "one checkpoint"
                        let lines = File.ReadAllLines(Path.Combine(folder, "run", "log.jsonl"))
                        let steps = lines |> Array.choose lossOf
                        Expect.equal (fst checkpoints.Head) steps.Length "of the last step"))
    ]

let private hasMpi = File.Exists "/usr/bin/mpirun"

let private rankTest name (body: string -> unit) =
    testCase name (fun () ->
        if hasMpi then
            withData body
        else
            skiptest "no mpirun: install Open MPI")

let private mpirun n = $"mpirun --allow-run-as-root --oversubscribe --bind-to none -n {n} dotnet $PROGRAM"

/// Each step's loss in a run's log.
let private lossesOf (folder: string) (run: string) =
    File.ReadAllLines(Path.Combine(folder, run, "log.jsonl")) |> Array.choose lossOf

let private ranks =
    testSequenced
    <| testList "mpirun" [
        rankTest "two ranks learn what one process learns from twice the batch" (fun folder ->
            let train batch output =
                $"train --model model --data data.tokens --steps 20 --sequence-length 8 --dropout 0 --exits all:0.5 --validate-every 0 --threads 1 --batch-size {batch} --output {output} --json"

            let two, one = train 3 "two", train 6 "one"
            let outcome = shell folder $"{mpirun 2} {two} && (layerskip {one})"
            Expect.equal outcome.Code 0 outcome.Error
            Expect.stringContains outcome.Out "\"ranks\":2" "two of them"

            for a, b in Array.zip (lossesOf folder "two") (lossesOf folder "one") do
                Expect.isLessThan (abs (a - b)) 1e-5 $"{a} and {b}"

            Expect.equal (lossesOf folder "two").Length 20 "20 steps")

        rankTest "a run of two ranks goes on as two ranks, bit for bit, and not as one" (fun folder ->
            let options =
                "--batch-size 2 --sequence-length 8 --dropout 0.3 --save-every 5 --keep 9 --validate-every 0 --threads 1"
            let train steps output =
                $"train --model model --data data.tokens --rate-floor 1 --steps {steps} {options} --output {output}"

            let whole = train 12 "whole"

            let outcome =
                shell
                    folder
                    $"{mpirun 2} {whole} >/dev/null 2>&1 || exit 3
                      cp -r whole parted; rm -r parted/checkpoint-10 parted/checkpoint-12
                      {mpirun 2} train --resume parted --threads 1 >/dev/null 2>&1 || exit 4
                      (layerskip train --resume whole)"

            Expect.equal outcome.Code 2 outcome.Error
            Expect.stringContains outcome.Error "it must be 2, as the run began" "one line"
            let read run =
                File.ReadAllBytes(Path.Combine(folder, run, "checkpoint-12", "optimizer.safetensors"))
            Expect.equal (read "parted") (read "whole") "moments")

        rankTest "a killed rank ends the run, with a line and a checkpoint that goes on" (fun folder ->
            let outcome =
                shell
                    folder
                    $"{mpirun 2} train --model model --data data.tokens --output run --steps 100000 --batch-size 1 --sequence-length 8 --save-every 20 --validate-every 0 --threads 1 >out 2>error & job=$!
                      for i in $(seq 600); do test -e run/checkpoint-20 && break; sleep 0.05; done
                      victim=$(pgrep -f 'output run --steps 100000' | while read p; do tr '\0' '\n' < /proc/$p/environ | grep -q '^OMPI_COMM_WORLD_RANK=1$' && echo $p; done | head -1)
                      kill -9 $victim; wait $job; code=$?; cat error out >&2; exit $code"

            Expect.notEqual outcome.Code 0 "it says so"
            Expect.stringContains outcome.Error "a rank has ended, and with it the run" outcome.Error
            Expect.stringContains
                outcome.Error
                "go on with `mpirun -n 2 layerskip train --resume run`"
                outcome.Error
            let step, latest = TrainingCheckpoint.all (Path.Combine(folder, "run")) |> List.head
            Expect.isTrue (File.Exists(Path.Combine(latest, "training_state.json"))) "a checkpoint"
            Expect.isGreaterThanOrEqual step 20 "whole")
    ]

[<Tests>]
let tests = testList "command line: train" [ processes; ranks ]
