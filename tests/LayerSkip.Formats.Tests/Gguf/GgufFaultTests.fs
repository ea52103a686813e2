module LayerSkip.Tests.GgufFaultTests

open System
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter

let private faultsOf (bytes: byte[]) = withBytes bytes (Gguf.openFile >> messages)
let private fault name (bytes: byte[]) parts = testCase name (fun () -> expectFault parts (faultsOf bytes))

let private values (count: int) : byte[] = Array.create (4 * count) 0uy

/// One float32 tensor of a llama file, with whatever `change` makes of it.
let private oneTensor (change: Item -> Item) =
    placed [ "token_embd.weight", [ 64UL; 10UL ], 0u, values 640 ]
    |> List.map change
    |> gguf 3u (model "llama")

let private small =
    gguf
        3u
        (model "llama" @ [ entryArray "tokenizer.ggml.tokens" 8u [ text "a"; text "b" ] ])
        (placed [
            "output_norm.weight", [ 4UL ], 0u, values 4
            "blk.0.attn_norm.weight", [ 3UL ], 1u, Array.zeroCreate 6
        ])

let private without (key: string) =
    let written = text key
    model "llama"
    |> List.filter (fun (entry: byte[]) -> not (entry.AsSpan().StartsWith(ReadOnlySpan written)))

let private replaced (key: string) (value: int) = gguf 3u (entryInt key value :: without key) []

[<Tests>]
let fileFaults =
    let header count entries = Array.concat [ "GGUF"B; u32 3u; u64 count; u64 entries ]

    testList "gguf faults" [
        testCase "no file"
        <| fun () -> expectFault [ "absent.gguf"; "not found" ] (Gguf.openFile "absent.gguf" |> messages)
        testCase "a folder"
        <| fun () -> withFolder (Gguf.openFile >> messages >> expectFault [ "is a folder" ])
        fault "an empty file" [||] [ "empty" ]
        fault "another magic" (Array.append "GGML"B small[4..]) [ "not a GGUF file" ]
        fault "version 1" (gguf 1u [] []) [ "version 1"; "2 and 3" ]
        fault "a big-endian file" (gguf 0x03000000u [] []) [ "big-endian" ]
        fault "a cut header" small[..12] [ "truncated"; "number of tensors"; "ends at 13" ]
        fault "more tensors than bytes" (header UInt64.MaxValue 0UL) [ "18446744073709551615 tensors" ]
        fault "more entries than bytes" (header 0UL 1000UL) [ "1000 entries" ]
        fault "a text beyond the file" (Array.concat [ header 0UL 1UL; u64 5000UL; Array.zeroCreate 40 ]) [
            "metadata key 1 of 1"
            "5000 bytes of text"
        ]
        fault
            "an array beyond the file"
            (gguf 3u [ entry "k" 9u (Array.concat [ u32 4u; u64 (1UL <<< 62) ]) ] [])
            [ "metadata \"k\""; "values" ]
        fault "an array of arrays" (gguf 3u [ entry "k" 9u (Array.concat [ u32 9u; u64 0UL ]) ] []) [
            "\"k\""
            "type 9"
        ]
        fault "an unknown type" (gguf 3u [ entry "k" 77u [||] ] []) [ "\"k\""; "type 77" ]
        fault "a key twice" (gguf 3u [ entryInt "k" 1; entryInt "k" 1 ] []) [ "\"k\" is there twice" ]
        fault "five dimensions" (oneTensor (fun item -> { item with Dims = [ 1UL; 1UL; 1UL; 1UL; 1UL ] })) [
            "token_embd.weight has 5 dimensions"
        ]
        fault
            "a product beyond all sizes"
            (oneTensor (fun item -> { item with Dims = [ 1UL <<< 40; 1UL <<< 40 ] }))
            [ "token_embd.weight"; "more than a file" ]
        fault "a size beyond all sizes" (oneTensor (fun item -> { item with Dims = [ 1UL <<< 62 ] })) [
            "token_embd.weight"
            "more than a file"
        ]
        fault "cut data" (Array.truncate 2001 (oneTensor id)) [
            "token_embd.weight needs 2560 bytes"
            "ends at 2001"
            "truncated"
        ]
        fault
            "an offset outside the file"
            (oneTensor (fun item -> { item with Offset = 1UL <<< 20; Data = [||] }))
            [ "token_embd.weight starts at byte 1048576" ]
        fault
            "an offset near the largest"
            (oneTensor (fun item -> { item with Offset = UInt64.MaxValue - 31UL; Data = [||] }))
            [ "outside the file" ]
        fault "a misaligned offset" (oneTensor (fun item -> { item with Offset = 4UL })) [
            "misaligned"
            "4"
            "32"
        ]
        fault "a bad alignment" (gguf 3u (entryInt "general.alignment" 24 :: model "llama") []) [
            "power of two"
        ]
        fault
            "a row that is no whole number of blocks"
            (oneTensor (fun item -> { item with Kind = 8u; Dims = [ 40UL; 4UL ] }))
            [ "[40, 4]"; "Q8_0"; "multiple of 32" ]
        for name, format, _ in GgufBlockSupport.formats do
            fault
                $"a row that is no whole number of {name}'s blocks"
                (oneTensor (fun item -> {
                    item with
                        Kind = format.Kind
                        Dims = [ uint64 (format.Values / 2); 4UL ]
                }))
                [ "token_embd.weight"; name; $"multiple of {format.Values}" ]

            fault
                $"a truncated block of {name}"
                (oneTensor (fun item -> {
                    item with
                        Kind = format.Kind
                        Dims = [ uint64 format.Values; 2UL ]
                        Data = Array.zeroCreate (2 * format.Bytes - 1)
                }))
                [ "token_embd.weight"; $"needs {2 * format.Bytes} bytes"; "truncated" ]
        fault "a format that is not read" (oneTensor (fun item -> { item with Kind = 16u })) [
            "token_embd.weight has dtype IQ2_XXS"
            "Q4_1"
            "IQ4_XS are read"
        ]
        fault "a format that nobody knows" (oneTensor (fun item -> { item with Kind = 99u })) [
            "ggml type 99"
        ]
        fault
            "a name twice"
            (gguf 3u (model "llama") (placed [ "a", [ 1UL ], 0u, values 1; "a", [ 1UL ], 0u, values 1 ]))
            [ "tensor a is there twice" ]
        fault
            "an overlap"
            (gguf 3u (model "llama") [
                { Name = "a"; Dims = [ 16UL ]; Kind = 0u; Offset = 0UL; Data = values 16 }
                { Name = "b"; Dims = [ 1UL ]; Kind = 0u; Offset = 32UL; Data = values 1 }
            ])
            [ "a and b overlap" ]
        testCase "all of them at once"
        <| fun () ->
            let items = placed [ "a", [ 1UL ], 16u, values 1; "b", [ 33UL ], 8u, values 1 ]
            let found =
                faultsOf (gguf 3u (without "llama.block_count" @ [ entryInt "llama.rope.freq_base" 0 ]) items)
            Expect.equal found.Length 4 "a's format, b's rows, block_count, freq_base"
        testCase "reports every truncation"
        <| fun () ->
            Expect.isFalse (withBytes small (Gguf.openFile >> isFault)) "whole"

            for length in 0 .. small.Length - 1 do
                Expect.isTrue (withBytes small[.. length - 1] (Gguf.openFile >> isFault)) $"{length}"
                withBytes small[.. length - 1] (Gguf.readMetadata >> isFault >> ignore)
        testProperty "never throws on a changed byte"
        <| fun (NonNegativeInt at) (value: byte) ->
            let bytes = Array.copy small
            bytes[at % bytes.Length] <- value
            withBytes bytes (Gguf.openFile >> isFault >> ignore)
        testCase "never throws on any bit of the file"
        <| fun () ->
            withFolder (fun folder ->
                let path = IO.Path.Combine(folder, "m.gguf")

                for at in 0 .. small.Length - 1 do
                    for bit in [ 0; 5; 7 ] do
                        let bytes = Array.copy small
                        bytes[at] <- bytes[at] ^^^ (1uy <<< bit)
                        IO.File.WriteAllBytes(path, bytes)
                        Gguf.openFile path |> isFault |> ignore)
    ]

[<Tests>]
let configFaults =
    testList "gguf configuration faults" [
        fault "no architecture" (gguf 3u [] []) [ "general.architecture"; "missing" ]
        fault "another architecture" (gguf 3u (model "gpt2") []) [ "architecture \"gpt2\""; "qwen3" ]
        for key in
            [
                "block_count"
                "embedding_length"
                "feed_forward_length"
                "attention.head_count"
                "context_length"
            ] do
            fault $"no {key}" (gguf 3u (without $"llama.{key}") []) [ $"\"llama.{key}\" is missing" ]
            fault $"{key} of 0" (replaced $"llama.{key}" 0) [ $"\"llama.{key}\" is 0"; "at least 1" ]
        fault "no epsilon" (gguf 3u (without "llama.attention.layer_norm_rms_epsilon") []) [
            "layer_norm_rms_epsilon"
            "missing"
        ]
        fault "no vocabulary" (gguf 3u (without "llama.vocab_size") []) [ "how many tokens" ]
        fault "kv heads that do not divide the heads" (replaced "llama.attention.head_count_kv" 3) [
            "head_count_kv\" is 3"
        ]
        fault "an odd head" (gguf 3u (entryInt "llama.attention.key_length" 5 :: model "llama") []) [
            "key_length\" is 5"
            "even"
        ]
        fault "half a head rotated" (gguf 3u (entryInt "llama.rope.dimension_count" 16 :: model "llama") []) [
            "rope.dimension_count"
            "16"
            "32"
        ]
        fault "longrope" (gguf 3u (entryText "llama.rope.scaling.type" "longrope" :: model "llama") []) [
            "\"longrope\""
        ]
        fault "experts" (gguf 3u (entryInt "llama.expert_count" 8 :: model "llama") []) [ "8 experts" ]
        fault
            "a text for a count"
            (gguf 3u (entryText "llama.block_count" "x" :: without "llama.block_count") [])
            [ "\"llama.block_count\" must be a whole number" ]
        fault
            "heads that differ between layers"
            (gguf
                3u
                (entryArray "llama.attention.head_count" 4u [ u32 1u; u32 2u ]
                 :: without "llama.attention.head_count")
                [])
            [ "differs between layers" ]
        fault "a count of layers that no memory holds" (replaced "llama.block_count" 2000000000) [
            "2000000000"
        ]
    ]
