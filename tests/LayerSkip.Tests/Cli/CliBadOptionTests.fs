/// Options that cannot be followed: what the command says of them.
module LayerSkip.Tests.CliBadOptionTests

open System
open System.IO
open Expecto
open TorchSharp
open LayerSkip
open LayerSkip.Tests.CliSupport

let private line folder options = [ "generate"; "--model"; folder ] @ options

/// A sound tiny model, and options that it cannot serve.
let private badOption (name: string) (options: string list) (words: string list) =
    testCase name (fun () -> withModel (fun folder -> line folder options |> refuses words))

[<Tests>]
let options =
    testList "command line: bad options" [
        badOption "a prompt longer than the context" [
            "--prompt-ids"
            String.Join(',', Seq.replicate 96 "3")
        ] [ "96 tokens"; "context of 96"; "95" ]
        badOption "an id outside the vocabulary" [ "--prompt-ids"; "3,24" ] [ "24"; "0 to 23" ]
        badOption "a negative id" [ "--prompt-ids=-1" ] [ "-1"; "0 to 23" ]
        badOption "ids that are no numbers" [ "--prompt-ids"; "1,x" ] [ "prompt-ids"; "\"x\""; "1,2,3" ]
        badOption "ids with nothing between commas" [ "--prompt-ids"; "1,,2" ] [ "prompt-ids" ]
        badOption "no ids and no tokenizer" [ "--prompt-ids"; "" ] [ "prompt is empty" ]
        badOption "text without a tokenizer" [ "--prompt"; "Once" ] [ "tokenizer"; "--prompt-ids" ]
        badOption "an empty text without a tokenizer" [ "--prompt"; "" ] [ "tokenizer" ]
        badOption "no prompt" [] [ "no prompt"; "--prompt-file" ]
        badOption "two prompts" (ids @ [ "--prompt"; "x" ]) [ "--prompt"; "--prompt-ids"; "exclude" ]
        badOption "ids as a message" (ids @ [ "--chat" ]) [ "--chat"; "--prompt-ids"; "exclude" ]
        badOption "a system message without a conversation" [ "--prompt"; "x"; "--system"; "y" ] [
            "--system"
            "--chat"
        ]
        badOption "a message to a model without a tokenizer" [ "--prompt"; "x"; "--chat" ] [ "tokenizer" ]
        badOption "a prompt file that is not there" [ "--prompt-file"; "/nowhere/p.txt" ] [
            "/nowhere/p.txt"
            "not found"
        ]
        badOption "a folder as prompt file" [ "--prompt-file"; "/" ] [ "folder" ]

        for options, words in
            [
                [ "--exit-layer"; "0" ], [ "--exit-layer is 0"; "1 to 3" ]
                [ "--exit-layer"; "4" ], [ "--exit-layer is 4"; "4 layers" ]
                [ "--exit-layer"; "2"; "--strategy"; "autoregressive" ],
                [ "--exit-layer and --strategy autoregressive exclude" ]
                [ "--draft-length"; "2"; "--strategy"; "autoregressive" ],
                [ "--draft-length and --strategy autoregressive exclude" ]
                [ "--draft-length"; "2"; "--strategy"; "early-exit" ],
                [ "--draft-length and --strategy early-exit exclude" ]
                [ "--exit-layer"; "-1"; "--strategy"; "early-exit" ], [ "--exit-layer is -1" ]
                [ "--exit-layer"; "two" ], [ "--exit-layer is \"two\", it must be a whole number" ]
                [ "--exit-layer=1e3" ], [ "--exit-layer is \"1e3\", it must be a whole number" ]
                [ "--max-new-tokens"; "1,000" ], [ "--max-new-tokens is \"1,000\"" ]
                [ "--draft-length"; "0" ], [ "--draft-length is 0"; "1 or more" ]
                [ "--draft-length"; "-1" ], [ "draft-length is -1" ]
                [ "--temperature"; "-1" ], [ "--temperature is -1" ]
                [ "--temperature"; "nan" ], [ "--temperature is \"nan\""; "0 (greedy) or more" ]
                [ "--temperature"; "inf" ], [ "--temperature is \"inf\""; "0 (greedy) or more" ]
                [ "--temperature"; "1e999" ], [ "--temperature is \"1e999\""; "0 (greedy) or more" ]
                [ "--top-p"; "Infinity" ], [ "--top-p is \"Infinity\""; "above 0 and at most 1" ]
                [ "--temperature"; "0,5" ], [ "temperature"; "0.5" ]
                [ "--top-p"; "1.5" ], [ "top-p is 1.5"; "at most 1" ]
                [ "--top-p"; "0" ], [ "top-p is 0"; "above 0" ]
                [ "--top-k"; "-1" ], [ "top-k is -1" ]
                [ "--min-p"; "1.5" ], [ "min-p is 1.5"; "0 (all) to 1" ]
                [ "--min-p=-0.1" ], [ "min-p is -0.1" ]
                [ "--min-p"; "nan" ], [ "--min-p is \"nan\""; "0 (all) to 1" ]
                [ "--repetition-penalty"; "0" ], [ "repetition-penalty is 0"; "0.01 to 100" ]
                [ "--repetition-penalty"; "nan" ], [ "--repetition-penalty is \"nan\"" ]
                [ "--presence-penalty"; "2.5" ], [ "presence-penalty is 2.5"; "-2 to 2" ]
                [ "--frequency-penalty"; "-3" ], [ "frequency-penalty is -3"; "-2 to 2" ]
                [ "--logit-bias"; "3=101" ], [ "logit-bias is 101"; "-100 to 100" ]
                [ "--logit-bias"; "3" ], [ "--logit-bias is \"3\""; "42=-100" ]
                [ "--logit-bias"; "3=x" ], [ "--logit-bias is \"3=x\"" ]
                [ "--logit-bias"; "3=1=2" ], [ "--logit-bias is \"3=1=2\"" ]
                [ "--logit-bias"; "24=1" ], [ "token id 24"; "0 to 23" ]
                [ "--logprobs"; "21" ], [ "logprobs is 21"; "0 to 20" ]
                [ "--logprobs"; "-1" ], [ "logprobs is -1" ]
                [ "--min-p"; "2"; "--presence-penalty"; "3" ], [ "min-p is 2"; "presence-penalty is 3" ]
                [ "--temperature"; "-1"; "--top-k"; "-2" ], [ "temperature is -1"; "top-k is -2" ]
                [ "--max-new-tokens"; "0" ], [ "max-new-tokens is 0"; "1 or more" ]
                [ "--max-new-tokens"; "99999999999" ],
                [
                    "--max-new-tokens is 99999999999, which is too big; it must be 1 to 2147483647"
                ]
                [ "--max-new-tokens=99999999999" ], [ "--max-new-tokens is 99999999999, which is too big" ]
                [ "--threads"; "99999999999" ],
                [ "--threads is 99999999999, which is too big; it must be 1 to 1024" ]
                [ "--seed"; "-99999999999999999999" ],
                [ "--seed is -99999999999999999999, which is too small" ]
                [ "--threads"; "0" ], [ "threads is 0"; "1 to 1024" ]
                [ "--seed"; "x" ], [ "--seed" ]
                [ "--stop-ids"; "24" ], [ "24"; "0 to 23" ]
                [ "--stop-ids"; "a" ], [ "stop-ids" ]
                [ "--stop"; "x" ], [ "stop string"; "--stop-ids" ]
                [ "--stop"; "" ], [ "stop is empty" ]
                [ "--dtype"; "f8" ], [ "--dtype"; "f16"; "'f8'" ]
                [ "--device"; "tpu" ], [ "--device"; "cpu|cuda"; "'tpu'" ]
                [ "--strategy"; "fast" ], [ "--strategy"; "self-speculative"; "'fast'" ]
                [ "--output"; "/nowhere/x.txt" ], [ "/nowhere"; "cannot be written" ]
                [ "--output"; "/" ], [ "cannot be written"; "folder" ]
                [ "--output"; "" ], [ "--output is empty" ]
                [ "--kv"; "q4" ], [ "--kv"; "f32|f16|q8" ]
                [ "--kv"; "q8" ], [ "kv q8 with f64 weights"; "take kv f16" ]
                [ "--kv"; "f32" ], [ "kv f32 with f64 weights"; "leave kv out" ]
                [ "--nope" ], [ "--nope"; "layerskip generate --help" ]
                [ "--seed"; "1"; "--seed"; "2" ], [ "--seed"; "more than once" ]
                [ "extra" ], [ "extra"; "--help" ]
            ] do
            badOption (String.concat " " options) (ids @ options) words

        testCase "--device cuda where libtorch is for CPUs" (fun () ->
            Backend.ensure ()

            if torch.cuda.is_available () then
                skiptest "there is a GPU"

            withModel (fun folder -> line folder (ids @ [ "--device"; "cuda" ]) |> refuses [ "cuda"; "cpu" ]))

        testCase "an empty --model" (fun () -> line "" ids |> refuses [ "--model is empty" ])
        testCase "an unknown sub-command" (fun () ->
            [ "dream" ] |> refuses [ "\"dream\""; "generate"; "info"; "certify" ])
        testCase "no sub-command" (fun () -> [] |> refuses [ "generate"; "info"; "certify"; "--help" ])
        testCase "options without a sub-command" (fun () -> [ "--json" ] |> refuses [ "sub-command" ])

        let certify name options words =
            testCase name (fun () ->
                withModel (fun folder -> [ "certify"; "--model"; folder ] @ options |> refuses words))

        certify "certify: exits that are not there" [ "--exit-layers"; "1,4,7" ] [
            "--exit-layers is 4"
            "--exit-layers is 7"
        ]
        certify "certify: a draft length of 0" [ "--draft-lengths"; "0" ] [ "--draft-lengths is 0" ]
        certify "certify: a prompts file that is not there" [ "--prompts"; "/nowhere/p" ] [ "/nowhere/p" ]
        testCase "certify: prompts that are no ids" (fun () ->
            withModel (fun folder ->
                let prompts = Path.Combine(folder, "prompts.txt")
                File.WriteAllText(prompts, "1,2\nOnce\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "line 2 holds \"Once\"" ]

                File.WriteAllText(prompts, "1\r\n\r\n2,99,3\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "line 3: token id 99"; "0 to 23" ]

                File.WriteAllText(prompts, "1,-2\n" + String.Join(',', Seq.replicate 96 "3") + "\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [
                    $"{prompts}: line 1: token id -2 is outside"
                    "; line 2: the prompt has 96 tokens"
                    "95 or fewer"
                ]))
        testCase "certify: more lines than are read" (fun () ->
            withModel (fun folder ->
                let prompts = Path.Combine(folder, "prompts.txt")
                File.WriteAllText(prompts, String.replicate 100_001 "1\n")

                [ "certify"; "--model"; folder; "--prompts"; prompts ]
                |> refuses [ prompts; "has more than 100,000 lines" ]))
        testCase "a prompt that has no end" (fun () ->
            withModel (fun folder ->
                for command in [ [ "generate"; "--prompt-file" ]; [ "certify"; "--prompts" ] ] do
                    command @ [ "/dev/zero"; "--model"; folder ]
                    |> refuses [ "/dev/zero: is a pipe, a socket or a device" ]))
        testCase "an output in place of what is read" (fun () ->
            withModel (fun folder ->
                let inside name = Path.Combine(folder, name)
                File.WriteAllText(inside "prompt.txt", "3,4")
                let config = File.ReadAllText(inside "config.json")
                let link = inside "link"
                File.CreateSymbolicLink(link, inside "model.safetensors") |> ignore
                let refused = [ "--output is"; "which this command reads" ]

                for output in [ inside "config.json"; link; folder ] do
                    [ "generate"; "--model"; folder; "--output"; output ] @ ids |> refuses refused
                    [ "info"; "--model"; folder; "--output"; output ] |> refuses refused
                    [ "certify"; "--model"; folder; "--output"; output ] |> refuses refused
                    [ "bench"; "--model"; folder; "--output"; output ] |> refuses refused

                let prompt = inside "prompt.txt"
                typed $"generate --model {folder} --prompt-file {prompt} --output {prompt}"
                |> refuses refused
                Expect.equal (File.ReadAllText(inside "config.json")) config "nothing was written"))
        testCase "memory that libtorch cannot have is told as such" (fun () ->
            Backend.ensure ()

            try
                torch.empty ([| 1L <<< 45 |]) |> ignore
                failtest "it could be had"
            with e when Memory.isShort e ->
                ())
        badOption "no prompt file" [ "--prompt-file"; "" ] [ "--prompt-file is empty" ]
        testCase "info: a path that is not there" (fun () ->
            [ "info"; "--model"; "/nowhere" ] |> refuses [ "/nowhere"; "not found" ])
    ]
