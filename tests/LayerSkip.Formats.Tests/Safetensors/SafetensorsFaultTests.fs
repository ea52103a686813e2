module LayerSkip.Tests.SafetensorsFaultTests

open System
open System.Text
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport

/// A safetensors file of a header's text and so many bytes of data.
let file (header: string) (data: int) =
    let header = Encoding.UTF8.GetBytes header
    Array.concat [ BitConverter.GetBytes(uint64 header.Length); header; Array.create data 1uy ]

/// The header of two tensors in 10 bytes.
let small =
    """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]}}"""

let private faultsOf (bytes: byte[]) = withBytes bytes (Safetensors.openFile >> messages)

let private fault (name: string) (header: string) (data: int) (parts: string list) =
    testCase name (fun () -> expectFault parts (faultsOf (file header data)))

[<Tests>]
let faults =
    let one fields = $"{{\"a\":{{{fields}}}}}"

    testList "safetensors faults" [
        testCase "no file"
        <| fun () ->
            expectFault
                [ "absent.safetensors"; "not found" ]
                (Safetensors.openFile "absent.safetensors" |> messages)
        testCase "a folder"
        <| fun () -> withFolder (Safetensors.openFile >> messages >> expectFault [ "is a folder" ])
        testCase "an empty file" <| fun () -> expectFault [ "empty" ] (faultsOf [||])
        testCase "fewer than 8 bytes"
        <| fun () -> expectFault [ "7 bytes"; "takes 8" ] (faultsOf (Array.zeroCreate 7))
        testCase "a header beyond the file"
        <| fun () ->
            let bytes = Array.append (BitConverter.GetBytes 99UL) (Array.zeroCreate 10)
            expectFault [ "truncated"; "99 bytes"; "ends at 18" ] (faultsOf bytes)
        testCase "a header of more than 100 MB"
        <| fun () ->
            let bytes = Array.append (BitConverter.GetBytes UInt64.MaxValue) (Array.zeroCreate 10)
            expectFault [ "18446744073709551615 bytes" ] (faultsOf bytes)
        fault "no JSON" "{\"a\":" 0 [ "not valid JSON" ]
        fault "no object" "[1]" 0 [ "not a JSON object" ]
        fault "half a surrogate pair" """{"\ud800":{}}""" 0 [ "not valid Unicode" ]
        fault "an entry that is a number" """{"a":1}""" 0 [ "tensor a"; "other than an object" ]
        fault "no dtype" (one "\"shape\":[1],\"data_offsets\":[0,4]") 4 [ "tensor a"; "\"dtype\"" ]
        fault "a negative dimension" (one "\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]") 4 [
            "tensor a"
            "\"shape\""
        ]
        fault "a negative offset" (one "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]") 4 [
            "tensor a"
            "\"data_offsets\""
        ]
        fault "three offsets" (one "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]") 8 [
            "tensor a"
            "3 data_offsets"
        ]
        fault "reversed offsets" (one "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]") 4 [
            "tensor a"
            "reversed"
            "4 to 0"
        ]
        fault "offsets outside the data" (one "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]") 7 [
            "tensor a"
            "0 to 8"
            "has 7"
        ]
        fault
            "a length that is not the shape's"
            (one "\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[0,8]")
            8
            [ "has 8 bytes"; "[2, 3] of F16 needs 12" ]
        fault
            "a shape beyond all sizes"
            (one "\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]")
            4
            [ "more than a file" ]
        fault "an unknown dtype" (one "\"dtype\":\"F12\",\"shape\":[4],\"data_offsets\":[0,6]") 6 [
            "tensor a has dtype F12"
            "BF16"
        ]
        fault "a dtype that is not read" (one "\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]") 8 [
            "tensor a has dtype I64"
        ]
        fault
            "a field twice"
            (one "\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]")
            4
            [ "\"dtype\" twice" ]
        fault
            "a name twice"
            """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"""
            8
            [ "name a is there twice" ]
        fault
            "an overlap"
            """{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"""
            8
            [ "a and b overlap" ]
        fault
            "a hole"
            """{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"""
            12
            [ "bytes 4 to 8"; "no tensor" ]
        fault "trailing bytes" small 12 [ "bytes 10 to 12"; "no tensor" ]
        fault "metadata that is no text" """{"__metadata__":{"a":1}}""" 0 [ "__metadata__" ]
        testCase "all of them at once"
        <| fun () ->
            let header =
                """{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]},"b":3,"c":{"dtype":"F32","shape":[2],"data_offsets":[1,5]}}"""

            Expect.equal (faultsOf (file header 5)).Length 3 "three faults"
        testCase "leaves out what is no weight"
        <| fun () ->
            let header =
                """{"h.0.attn.bias":{"dtype":"BOOL","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]}}"""

            withBytes (file header 4) (fun path ->
                use opened = Safetensors.openFile path |> Check.getOrRaise
                Expect.equal [ for tensor in opened.Tensors -> tensor.Name ] [ "w" ] "names")
    ]
