/// Inputs that went wrong once (../shared/cases): each gives what is right, in seconds.
module LayerSkip.Tests.CaseTests

open System
open System.Diagnostics
open System.IO
open System.Text.Json
open System.Threading.Tasks
open Expecto
open LayerSkip.Tests.Support
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

let private defaultModel = Path.Combine(root, "models", "stories-10m")

/// The folder of a case. Those about the default model's tokenizer have a stub for its weights: a copy gets them.
let private withWeights (folder: string) (body: string -> unit) =
    let isStub =
        FileInfo(Path.Combine(folder, "model.safetensors"))
        |> fun file -> file.Exists && file.Length < 100L

    if isStub then
        withFolder (fun whole ->
            for file in Directory.GetFiles folder do
                File.Copy(file, Path.Combine(whole, Path.GetFileName file))

            let weights = "model.safetensors"
            File.Copy(Path.Combine(defaultModel, weights), Path.Combine(whole, weights), true)
            body whole)
    else
        body folder

/// Far above the 5 s that a case may take, for machines that are busy: a hang fails, slowness does not.
let private patience = TimeSpan.FromSeconds 60.0

let private within (arguments: string list) : Outcome =
    let running = Task.Run(fun () -> cli arguments)

    if not (running.Wait patience) then
        failtest $"""no end within {patience}: {String.concat " " arguments}"""

    running.Result

let private isPlain (text: string) = text |> Seq.forall (fun c -> c = '\n' || not (Char.IsControl c))

/// One line that names what is at fault, and nothing on standard output.
let private expectRefusal (code: int) (parts: string list) (outcome: Outcome) =
    Expect.equal outcome.Code code outcome.Error
    Expect.equal outcome.Out "" "nothing on standard output"
    let lines = outcome.Error.TrimEnd('\n').Split '\n'
    let error = Array.last lines

    for part in parts do
        Expect.stringContains error part "what is at fault"

    Expect.isTrue (isPlain outcome.Error) $"no control characters: {outcome.Error}"
    Expect.isLessThan error.Length 1000 "a line that can be read"

    for word in [ "Exception"; "System."; "Parameter '" ] do
        Expect.isFalse (error.Contains word) $"no exception's words: {error}"

let private four = [ "--max-new-tokens"; "4" ]
let private numbers = "--prompt-ids" :: "1,2,3" :: four

let private refused (folder: string) (arguments: string -> string list) (parts: string list) =
    caseTest folder [ "files"; folder ] (fun folder ->
        withWeights folder (arguments >> within >> expectRefusal 2 parts))

let private info model = [ "info"; "--model"; model ]
let private generate options model = [ "generate"; "--model"; model ] @ options
let private gguf options (folder: string) = generate options (Path.Combine(folder, "m.gguf"))

let private prompt = [ "--prompt"; String('a', 48) + "!" ] @ four

let private files =
    testList "files" [
        refused "added-token-null" (generate [ "--prompt"; "a" ]) [ "tokenizer.json" ]
        refused "merge-null" (generate [ "--prompt"; "a" ]) [ "tokenizer.json" ]
        refused "config-eps-negative" (generate numbers) [ "rms_norm_eps" ]
        refused "config-yarn-inf" (generate numbers) [ "config.json"; "factor" ]
        refused "config-invalid-utf8" info [ "config.json" ]
        refused "config-lone-surrogate" info [ "config.json" ]
        refused "config-escape-code" info [ "config.json"; "model_type" ]
        refused "config-long-number" info [ "config.json" ]
        refused "config-long-number-20000" info [ "config.json" ]
        refused "config-long-number-60000" info [ "config.json" ]
        refused "safetensors-long-name" info [ "model.safetensors" ]
        refused "heads-536870913-kv1" (generate numbers) [ "num_attention_heads" ]
        refused "heads-times-head-dim-overflow" (generate numbers) [ "head_dim" ]
        refused "gguf-heads-overflow" (gguf numbers) [ "m.gguf"; "head_count" ]
        refused "gguf-100000-layers" (gguf numbers) [ "m.gguf" ]
        refused "rope-table-zero-dims" (gguf numbers) [ "rope_freqs.weight" ]
        refused "f16-overflow-0" (generate ("--dtype" :: "f16" :: numbers)) [ "tensor" ]

        for kind in [ "regex-backtracking"; "regex-nested-counts"; "normalizer-doubling" ] do
            caseTest $"{kind}: an end, and a line where it is none" [ "files"; kind ] (fun folder ->
                withWeights folder (fun folder ->
                    match within (generate prompt folder) with
                    | outcome when outcome.Code = 0 -> ()
                    | outcome -> expectRefusal 2 [ "tokenizer.json" ] outcome))

        caseTest "gguf-long-piece-100000" [ "files"; "gguf-long-piece-100000" ] (fun folder ->
            let outcome = within (gguf numbers folder)
            Expect.isTrue (outcome.Code = 0 || outcome.Code = 2) outcome.Error)

        caseTest
            "huge-context: memory for what is decoded, not for what might be"
            [ "files"; "huge-context" ]
            (fun folder ->
                let first =
                    tokenIds (json (generate [ "--prompt-ids"; "1,2,3"; "--max-new-tokens"; "1" ] folder))

                for most in [ "100000000"; "2147483647" ] do
                    let before = GC.GetTotalAllocatedBytes()
                    let stop = [ "--stop-ids"; string first[0] ]
                    let outcome =
                        within (
                            generate ([ "--prompt-ids"; "1,2,3"; "--max-new-tokens"; most ] @ stop) folder
                        )
                    Expect.equal outcome.Code 0 outcome.Error
                    Expect.isLessThan (GC.GetTotalAllocatedBytes() - before) (1L <<< 30) "memory")

        caseTest "temperature-tiny: as cold as greedy" [ "files"; "temperature-tiny" ] (fun _ ->
            let generate options =
                json ([ "generate"; "--prompt"; "Once"; "--max-new-tokens"; "8" ] @ options)
            let greedy = tokenIds (generate [])

            for temperature in [ "1e-307"; "1e-310"; "1e-320" ] do
                Expect.equal (tokenIds (generate [ "--temperature"; temperature ])) greedy temperature)

        caseTest "tokens-file-count-overflow" [ "files"; "tokens-file-count-overflow" ] (fun folder ->
            for name in [ "a.tokens"; "b.tokens" ] do
                withModel (fun model ->
                    withFolder (fun output ->
                        let run = Path.Combine(output, "RUN")

                        within [
                            yield! [ "train"; "--model"; model; "--data"; Path.Combine(folder, name) ]
                            yield! [ "--output"; run; "--recipe"; "plain"; "--steps"; "2" ]
                        ]
                        |> expectRefusal 2 [ name ]

                        Expect.isFalse
                            (File.Exists(Path.Combine(run, "train.tokens")))
                            "nothing half-written")))

        caseTest "jsonl-surrogate" [ "files"; "jsonl-surrogate" ] (fun folder ->
            withFolder (fun output ->
                within [
                    yield! [ "train"; "--model"; defaultModel ]
                    yield! [
                        "--data"
                        Path.Combine(folder, "a.jsonl")
                        "--output"
                        Path.Combine(output, "RUN")
                    ]
                    yield! [ "--recipe"; "plain"; "--steps"; "2" ]
                ]
                |> expectRefusal 2 [ "a.jsonl" ]))

        caseTest "export-replaces-device: a FIFO stays one" [ "files"; "export-replaces-device" ] (fun _ ->
            withFolder (fun folder ->
                let outcome =
                    shell
                        folder
                        $"""
mkfifo null.gguf; ln -s target.gguf link.gguf; cat null.gguf > read & reader=$!
( layerskip export --model {defaultModel} --output null.gguf --format gguf --layers 1 ); echo "code $?"
wait $reader; stat -c %%F null.gguf
( layerskip export --model {defaultModel} --output link.gguf --format gguf --layers 1 ); echo "code $?"
stat -c %%F link.gguf; cmp read target.gguf && echo same"""

                Expect.stringContains outcome.Out "same" outcome.Error
                Expect.stringContains outcome.Out "fifo" outcome.Out
                Expect.stringContains outcome.Out "symbolic link" outcome.Out))

        caseTest "export-interrupted: nothing is left" [ "files"; "export-interrupted" ] (fun _ ->
            let model = sharedPath [ "smollm2-135m-instruct"; "model.gguf" ]

            if not (File.Exists model) then
                skiptest "no ../shared/data/smollm2-135m-instruct"

            withFolder (fun folder ->
                for signal, code in [ "INT", 130; "TERM", 143; "HUP", 129 ] do
                    // The file is written in a fraction of a second: bash itself looks for it, without a pause.
                    let outcome =
                        shell
                            folder
                            $"""
set -m; layerskip export --model {model} --dtype f32 --format gguf --output d.gguf & job=$!
until compgen -G 'd.gguf.*' >/dev/null || ! kill -0 $job 2>/dev/null; do :; done
kill -{signal} $job; wait $job; echo "code $?"; ls -A"""

                    Expect.equal outcome.Out $"code {code}\n" $"{signal}: {outcome.Error}"))

        caseTest "deleted-cwd: absolute paths work" [ "files"; "deleted-cwd" ] (fun _ ->
            withFolder (fun folder ->
                let outcome =
                    shell
                        folder
                        $"""
mkdir gone; cd gone; rmdir ../gone
layerskip info --model {defaultModel}"""

                Expect.isTrue (outcome.Code = 0 || outcome.Code = 2) outcome.Error
                Expect.isFalse (outcome.Error.Contains "oneMKL") outcome.Error))

        caseTest "chmod-000-model: another user's folder is one line" [ "files"; "chmod-000-model" ] (fun _ ->
            withFolder (fun folder ->
                File.SetUnixFileMode(folder, enum<UnixFileMode> 0o755)

                let outcome =
                    shell
                        folder
                        """
other() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
[ "$(id -u)" = 0 ] && other test -r "$PROGRAM" || { echo skip; exit 0; }
mkdir closed; chmod 000 closed; export HOME=/nonexistent
exec setpriv --reuid=65534 --regid=65534 --clear-groups dotnet "$PROGRAM" generate --model "$PWD/closed" --prompt x"""

                if outcome.Out = "skip\n" then
                    skiptest "needs root and setpriv"

                expectRefusal 2 [ "closed" ] outcome))
    ]

// ---- reports: the generators as they are, in Python, with the command on the path ----

let private python = lazy (CliSupport.shell "/" "python3 -c 'import json, struct'").Code

/// Runs a report's gen.py where it expects to be, and gives what it printed and the folder.
let private report (code: int) (name: string) (expect: string -> string -> unit) =
    caseTest $"report {name}" [ "reports"; name ] (fun _ ->
        if python.Value <> 0 then
            skiptest "no python3"

        withFolder (fun folder ->
            let outcome =
                shell
                    folder
                    $"""
mkdir -p work bin; ln -s {casePath [ ".." ]} shared; cd work; cp -r {casePath [ "reports" ]} cases; chmod -R u+w cases
mkdir -p out/out
printf '#!/bin/sh\nexec dotnet %%s "$@"\n' "$PROGRAM" > ../bin/layerskip; chmod +x ../bin/layerskip
export PATH=$PWD/../bin:$PATH
[ {name} = pre_r1_qwen ] && ../bin/layerskip export --model {defaultModel} --format gguf --output out/out/s10.gguf >/dev/null
python3 cases/{name}/gen.py"""

            Expect.equal outcome.Code code outcome.Error
            expect (outcome.Out + outcome.Error) (Path.Combine(folder, "work", "cases", name))))

/// SmolLM2's folder with a report's tokenizer.json.
let private withTokenizer (folder: string) (body: string -> unit) =
    let model = sharedPath [ "smollm2-135m-instruct" ]

    withFolder (fun made ->
        for file in [ "tokenizer_config.json" ] do
            File.Copy(Path.Combine(model, file), Path.Combine(made, file))

        File.Copy(Path.Combine(folder, "tokenizer.json"), Path.Combine(made, "tokenizer.json"))
        body made)

let private reports =
    testList "reports" [
        report 0 "added_tokens" (fun said _ ->
            Expect.stringContains said "513" said
            Expect.stringContains said "512" said)

        report 0 "base_prefix" (fun said _ -> Expect.isFalse (said.Contains "missing") said)
        report 0 "eom_lost" (fun said _ -> Expect.stringContains said "[[2, 5, 7], [2, 5, 7]]" said)

        // The generator reads each answer as JSON, and there is none any more.
        report 1 "nan_logits" (fun _ folder ->
            let model = Path.Combine(folder, "m")
            let prompt = [ "--prompt"; "Once upon a time"; "--max-new-tokens"; "6" ]
            let speculative = [ "--strategy"; "self-speculative"; "--exit-layer"; "2" ]

            for options in [ []; speculative; [ "--temperature"; "0.8" ] ] do
                let outcome = within (generate (prompt @ options) model)
                Expect.equal outcome.Code 1 outcome.Error
                Expect.stringContains outcome.Error "layer 2 of 5 is not finite at position 0" "where")

        report 0 "pre_r1_qwen" (fun said _ -> Expect.isFalse (said.Contains "not supported") said)

        report 0 "training_files" (fun said _ ->
            for name, code in [ "bom.jsonl", 0; "bom.txt", 0; "surrogate.jsonl", 2; "alpaca_data.json", 2 ] do
                Expect.stringContains said $"{name} {code}" said

            Expect.isFalse (said.Contains "Exception") said)

        report 0 "special_in_training" (fun said _ ->
            Expect.stringContains (said.Split(" HF")[0]) "[1, 4093, 198, 6004, 2, 198" said)

        report 0 "viking" (fun _ folder ->
            withTokenizer folder (fun made ->
                LayerSkip.Tokenizer.tryLoad made |> LayerSkip.Check.getOrRaise |> ignore))

        report 0 "astral_class" (fun _ folder ->
            withTokenizer folder (fun made ->
                let tokenizer = (LayerSkip.Tokenizer.tryLoad made |> LayerSkip.Check.getOrRaise).Value

                for line in File.ReadLines(Path.Combine(folder, "lines.json")) do
                    let text = JsonDocument.Parse(line).RootElement.GetString()
                    let ids = LayerSkip.Tokenizer.encode tokenizer text
                    Expect.equal (LayerSkip.Tokenizer.decode true tokenizer ids) text "comes back"))

        report 0 "posix_class" (fun _ folder ->
            withTokenizer folder (fun made ->
                // Translated or refused; what it must not be is .NET's other meaning.
                match LayerSkip.Tokenizer.tryLoad made with
                | Error faults ->
                    expectFault [ "tokenizer.json" ] (List.map LayerSkip.LayerSkipError.message faults)
                | Ok tokenizer ->
                    let encode = LayerSkip.Tokenizer.encode tokenizer.Value
                    let parts = [ "Hello"; ","; " a"; "ll"; "!" ]
                    Expect.equal
                        (encode "Hello, all!")
                        (Array.collect encode (Array.ofList parts))
                        "the words"))
    ]

[<Tests>]
let tests = testList "cases" [ files; reports ]
