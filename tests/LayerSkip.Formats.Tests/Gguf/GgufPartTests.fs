module LayerSkip.Tests.GgufPartTests

open System
open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.GgufWriter

let private ok result = Check.getOrRaise result

let private norm name (value: float32) = name, [ 4UL ], 0u, Array.concat (Array.create 4 (f32 value))

let private tensors = [
    norm "output_norm.weight" 1f
    norm "blk.0.attn_norm.weight" 2f
    norm "blk.0.ffn_norm.weight" 3f
]

let private short key (value: int) = entry key 2u (BitConverter.GetBytes(uint16 value))

/// The metadata of part `place`, from 1, of `count`.
let private split place count = [ short "split.no" (place - 1); short "split.count" count ]

/// What gguf-split writes: metadata in the first part, 3 tensors over 3 parts, with whatever `change` makes of them.
let private parts (change: Map<string, byte[]> -> Map<string, byte[]>) (body: string -> 'T) : 'T =
    let part place =
        let own =
            if place = 1 then
                model "llama" @ [ entryInt "split.tensors.count" 3 ]
            else
                []
        $"m-0000{place}-of-00003.gguf", gguf 3u (own @ split place 3) (placed [ tensors[place - 1] ])

    withFolder (fun folder ->
        for KeyValue(name, bytes) in change (Map(List.map part [ 1..3 ])) do
            File.WriteAllBytes(Path.Combine(folder, name), bytes)

        body folder)

let private path (folder: string) place = Path.Combine(folder, $"m-0000{place}-of-00003.gguf")
let private second = "m-00002-of-00003.gguf"

/// What is said whichever part is named.
let private fault name change words =
    testCase name (fun () ->
        parts change (fun folder ->
            for place in [ 1; 3 ] do
                Gguf.openFile (path folder place) |> messages |> expectFault words))

[<Tests>]
let partTests =
    testList "gguf parts" [
        testCase "any part stands for the whole model"
        <| fun () ->
            parts id (fun folder ->
                let whole = Path.Combine(folder, "whole.gguf")
                File.WriteAllBytes(whole, gguf 3u (model "llama") (placed tensors))
                use expected = Gguf.openFile whole |> ok

                for place in 1..3 do
                    use file = Gguf.openFile (path folder place) |> ok
                    Expect.equal file.Config expected.Config "configuration"
                    Expect.equal file.Path (path folder place) "as it was named"
                    Expect.equal (Gguf.readMetadata (path folder place) |> ok) file.Metadata "metadata"

                    for a, b in List.zip expected.Tensors file.Tensors do
                        Expect.equal b.Name a.Name "name"
                        Expect.equal (StoredTensor.toFloats b) (StoredTensor.toFloats a) a.Name

                    (file :> IDisposable).Dispose()

                    for tensor in file.Tensors do
                        Expect.throwsT<ObjectDisposedException>
                            (fun () -> StoredTensor.toFloats tensor |> ignore)
                            "all parts are closed")

        testCase "a merged file, and one of one, are whole"
        <| fun () ->
            for count in [ 0; 1 ] do
                let bytes = gguf 3u (model "llama" @ split 1 count) (placed tensors)

                for name in [ "m.gguf"; "m-00001-of-00001.gguf"; second ] do
                    withFolder (fun folder ->
                        let path = Path.Combine(folder, name)
                        File.WriteAllBytes(path, bytes)
                        use file = Gguf.openFile path |> ok
                        Expect.equal file.Tensors.Length 3 name)

        fault "a missing part" (Map.remove second) [ second; "not found"; "3 files" ]
        testCase "every missing part"
        <| fun () ->
            parts (Map.remove second >> Map.remove "m-00003-of-00003.gguf") (fun folder ->
                let found = Gguf.openFile (path folder 1) |> messages
                Expect.equal found.Length 2 "two parts"
                expectFault [ second; "not found" ] found
                expectFault [ "m-00003"; "not found" ] found)
        fault "another count" (Map.add second (gguf 3u (split 2 4) [])) [ second; "part 2 of 4"; "2 of 3" ]
        fault "another place" (Map.add second (gguf 3u (split 1 3) [])) [ second; "part 1 of 3"; "2 of 3" ]
        fault "a whole file in a part's place" (Map.add second (gguf 3u [] [])) [ second; "part 1 of 1" ]
        fault "no GGUF file in a part's place" (Map.add second "GGML and more"B) [ second; "not a GGUF file" ]
        fault "a tensor in two parts" (Map.add second (gguf 3u (split 2 3) (placed [ tensors[2] ]))) [
            "blk.0.ffn_norm.weight"
            second
            "m-00003"
        ]
        fault "a tensor too few" (Map.add second (gguf 3u (split 2 3) [])) [
            "split.tensors.count"
            "is 3"
            "hold 2"
        ]
        fault
            "a truncated tensor in a part"
            (fun files ->
                let bytes = files[second]
                Map.add second (Array.truncate (bytes.Length - 1) bytes) files)
            [ second; "blk.0.attn_norm.weight"; "truncated" ]
        fault
            "a count that is no number"
            (fun files ->
                files
                |> Map.map (fun _ _ -> gguf 3u [ entryText "split.count" "x"; short "split.no" 0 ] []))
            [ "\"split.count\" must be a whole number" ]
        testCase "a part whose name does not say which"
        <| fun () ->
            withBytes (gguf 3u (model "llama" @ split 2 3) []) (fun path ->
                for found in [ Gguf.openFile path |> messages; Gguf.readMetadata path |> messages ] do
                    expectFault [ "part 2"; "split into 3"; "-00002-of-00003.gguf" ] found)
        testCase "a name of another count"
        <| fun () ->
            parts id (fun folder ->
                let path = Path.Combine(folder, "m-00001-of-00002.gguf")
                File.Copy(Path.Combine(folder, "m-00001-of-00003.gguf"), path)
                Gguf.openFile path
                |> messages
                |> expectFault [ "2 files by its name"; "3 by \"split.count\"" ])
    ]
